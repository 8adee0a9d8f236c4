"""`keep` and `gc` with tuned values: samples of a choice go once it is made, and not before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.execution import engine
from orchestrator.plan.choices import Choices
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done, missing
from orchestrator.retention.garbage import garbage, remove
from orchestrator.retention.policy import Tidier
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, begun, metrics, run_here
from tests.orchestrator.racing import RACE, choice_of, few, result_of, steps
from tests.orchestrator.retention.test_kept import sweep, there, with_keep


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A race of several rungs that keeps its samples. Nobody may change its store: copy it."""
    folder = tmp_path_factory.mktemp("whole")
    return run_here(sweep(folder, RACE), folder / "store")


def copied(ran: Ran, folder: Path, steps_left: int | None = None) -> Store:
    """A copy of the store, with only so many steps of the race."""
    store = Store(str(shutil.copytree(ran.store.root, folder)))
    for step in ran.plan.races[0].steps[steps_left:] if steps_left is not None else ():
        Path(store.path(f"records/select/{step}.json")).unlink(missing_ok=True)
    return store


def of_choices(planned: Plan, store: Store, kind: str) -> int:
    """How many blocks of a kind the candidates of the races have."""
    candidates = [candidate for race in planned.races for candidate in race.candidates]
    digests = {d for each in candidates for d in (each.streams if kind == "sample" else each.extracts)}
    return sum(len(store.list(f"blocks/{digest}")) for digest in digests)


@pytest.mark.parametrize("keep", ["features", "influence", "scores"])
def test_samples_of_a_choice_go_once_it_is_made(
    whole: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """Each block is there until then; what is chosen, and all numbers, are the same."""
    drawn = of_choices(whole.plan, whole.store, "sample")
    assert drawn > 8
    seen: list[tuple[bool, int, int]] = []
    finished = Tidier.finished

    def watched(self: Tidier, digest: str) -> int:
        chosen = any(record["chosen"] for record in steps(self.store).values())
        before = of_choices(planned, self.store, "sample")
        removed = finished(self, digest)
        seen.append((chosen, before, of_choices(planned, self.store, "sample")))
        return removed

    monkeypatch.setattr(Tidier, "finished", watched)
    path = sweep(tmp_path, with_keep(keep, RACE))
    planned = plan(read_sweep(path))
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    assert all(before == after for chosen, before, after in seen if not chosen)
    first = next(place for place, (chosen, _, _) in enumerate(seen) if chosen)
    assert seen[first][1:] == (drawn, 0)  # at the choice itself
    assert (there(ran, "sample"), there(ran, "extract") > 0) == (0, keep == "features")
    assert of_choices(ran.plan, ran.store, "extract") == (drawn if keep == "features" else 0)
    assert steps(ran.store) == steps(whole.store)
    assert metrics(ran.document()) == metrics(whole.document())
    assert missing(Choices(ran.plan, ran.store).current(Done(ran.store)), Done(ran.store)) == {}
    again = run_here(path, ran.store.root)
    assert (again.backend, choice_of(again)) == (None, choice_of(whole))


def test_an_open_race_needs_all_of_its_blocks(whole: Ran, tmp_path: Path) -> None:
    path = sweep(tmp_path, with_keep("scores", RACE))
    lean = plan(read_sweep(path))
    for number in range(len(steps(whole.store))):
        store = copied(whole, tmp_path / str(number), number)
        before = of_choices(lean, store, "sample"), of_choices(lean, store, "extract")
        shutil.rmtree(store.path("sweeps"))  # the one that keeps its samples
        engine.keep_plan(lean, store)
        Tidier(lean, store).rest()
        assert (of_choices(lean, store, "sample"), of_choices(lean, store, "extract")) == before
        ran = run_here(path, store.root)
        assert steps(ran.store) == steps(whole.store)
        assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)


def test_the_open_race_of_another_sweep_keeps_what_it_shares(whole: Ran, tmp_path: Path) -> None:
    store = copied(whole, tmp_path / "store")
    shutil.rmtree(store.path("sweeps"))
    more = sweep(
        tmp_path, with_keep("scores", RACE).replace("name: race", "name: more").replace("5.5, 6]", "5.5, 6, 7]")
    )
    engine.keep_plan(plan(read_sweep(more)), store)
    lean = plan(read_sweep(sweep(tmp_path, with_keep("scores", RACE), "lean.yaml")))
    before = of_choices(lean, store, "sample")
    engine.keep_plan(lean, store)
    Tidier(lean, store).rest()
    assert of_choices(lean, store, "sample") == before
    ran = run_here(more, store.root)
    assert not ran.failed
    assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)


def test_a_damaged_step_draws_again_what_has_gone(whole: Ran, tmp_path: Path) -> None:
    path = sweep(tmp_path, with_keep("influence", RACE))
    ran = run_here(path, tmp_path / "store")
    step = Path(ran.store.path(f"records/select/{ran.plan.races[0].steps[0]}.json"))
    step.write_text(step.read_text()[:100])
    again = run_here(path, ran.store.root)
    assert again.did["select"] == 1
    assert again.did["sample"] == 8 * 50
    assert steps(again.store) == steps(whole.store)
    assert (there(again, "sample"), there(again, "extract")) == (0, 0)


def test_two_engines_that_tidy_a_race(whole: Ran, tmp_path: Path) -> None:
    path = sweep(tmp_path, with_keep("influence", RACE))
    options = ("--store", tmp_path / "store", "--tracking", "none", "--here", "--device", "cpu")
    for run in [begun("run", path, *options) for _ in range(2)]:
        done = run.end()
        assert done.returncode == 0, done.stderr
    ran = run_here(path, tmp_path / "store")
    assert ran.backend is None
    assert steps(ran.store) == steps(whole.store)
    assert metrics(ran.document()) == metrics(whole.document())
    assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)


def test_gc_takes_nothing_from_a_race(whole: Ran, tmp_path: Path) -> None:
    """Nor the failed attempts at what it may still want; those go once it has chosen and its cells are scored."""
    for number in range(len(steps(whole.store)) + 1):
        store = copied(whole, tmp_path / str(number), number)
        tried = [candidate.streams[0] for candidate in whole.plan.races[0].candidates]
        tried += [cell.stream for cell in whole.plan.cells]
        for digest in tried:
            store.create_record(f"attempts/{digest}/1.json", {"cause": "node", "reason": "it went away", "time": 1.0})
        assert garbage(store) == []
        found = garbage(store, quarantine=True)
        assert {each.what for each in found} == {"attempts"}
        candidates = {digest for digest in tried if any(digest in each.file.name for each in found)} - {
            cell.stream for cell in whole.plan.cells
        }
        assert len(candidates) == (8 if number == len(steps(whole.store)) else 0)
        remove(store, found)
        assert result_of(run_here(whole.plan.sweep.path, store.root)) == result_of(whole)


def test_gc_takes_a_candidate_that_is_no_longer_named(tmp_path: Path) -> None:
    ran = run_here(sweep(tmp_path, few()), tmp_path / "store")
    fewer = run_here(sweep(tmp_path, few(values="[2, 4]")), ran.store.root)
    kept, gone = (of_choices(each.plan, each.store, "sample") for each in (fewer, ran))
    assert kept < gone
    found = garbage(ran.store)
    assert {each.what for each in found} >= {"blocks", "records"}
    remove(ran.store, found)
    assert of_choices(ran.plan, ran.store, "sample") == kept
    again = run_here(fewer.plan.sweep.path, ran.store.root)
    assert (again.backend, choice_of(again)) == (None, choice_of(fewer))
