"""Races end in the same choice however they are run, draw only what they must, and leave out what is not finite."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from orchestrator.plan.choices import Choices
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context, input_names
from tests.orchestrator.conftest import Ran, begun, changed, nagbench, run_here
from tests.orchestrator.execution.test_kills import until, workers_of
from tests.orchestrator.racing import BLOCK, MATCHED, RACE, blocks, choice_in, choice_of, few, result, result_of, steps

SLOW = ("{name: euler, steps: 4}", "{name: euler, steps: 20}")


def sweep(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def where(store: Path, *options: str) -> tuple[str | Path, ...]:
    return "--store", store, "--tracking", "none", "--device", "cpu", *options


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("race")
    return run_here(sweep(folder, changed(RACE, *SLOW)), folder / "store")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The race with few candidates. Nobody may change its store: copy it."""
    folder = tmp_path_factory.mktemp("quick")
    return run_here(sweep(folder, few()), folder / "store")


# (a) The same result


def test_the_race_has_several_rungs(undisturbed: Ran) -> None:
    """Else the tests below would show little."""
    counts = [record["count"] for record in steps(undisturbed.store).values()]
    assert {50, 100} <= {*counts}
    choice = choice_of(undisturbed)
    assert choice.chosen is not None
    assert choice.samples < 0.7 * choice.exhaustive  # the first rung is one block, a quarter of all
    assert not undisturbed.failed


def test_a_step_waits_for_who_takes_part(undisturbed: Ran, tmp_path: Path) -> None:
    """Not for every candidate with all samples, as an array task would for other tasks."""
    context, store = Context(undisturbed.store), undisturbed.store
    context.tasks.update(undisturbed.plan.tasks)
    race, taken = undisturbed.plan.races[0], len(steps(store))
    extracts = {candidate.place: candidate.extracts for candidate in race.candidates}
    for step in race.steps[:taken]:
        record = store.read_record(f"records/select/{step}.json")
        wanted = {extract for row in record["scored"] for extract in extracts[tuple(row["place"])]}
        found = [*input_names(context, undisturbed.plan.tasks[step], None)]
        assert all(map(store.exists, found))
        blocks_read = {name for name in found if name.startswith("blocks/")}
        assert blocks_read == {
            f"blocks/{d}/{n:06d}.safetensors" for d in wanted for n in range(record["count"] // BLOCK)
        }
    copy = Context(Store(str(shutil.copytree(store.root, tmp_path / "store"))), tasks=context.tasks)
    Path(copy.store.path(f"records/select/{race.steps[0]}.json")).unlink()
    names = input_names(copy, undisturbed.plan.tasks[race.steps[1]], None)
    assert next(name for name in names if not copy.store.exists(name)) == f"records/select/{race.steps[0]}.json"


@pytest.mark.parametrize("workers", ["1", "3"])
def test_any_number_of_workers(undisturbed: Ran, tmp_path: Path, workers: str) -> None:
    done = nagbench("run", undisturbed.plan.sweep.path, *where(tmp_path / "store", "--workers", workers))
    assert done.returncode == 0, done.stderr
    assert result(undisturbed.plan, Store(str(tmp_path / "store"))) == result_of(undisturbed)


def test_killed_in_the_middle_of_rungs(undisturbed: Ran, tmp_path: Path) -> None:
    """Everything is killed in the first rung, and again in the next one."""
    path, store = undisturbed.plan.sweep.path, tmp_path / "store"

    def drawn() -> int:
        return len(list(store.glob("blocks/*/0*.safetensors")))

    def chosen_by() -> int:
        return len(list(store.glob("records/select/*.json")))

    for reached in (lambda: drawn() >= 5, lambda: chosen_by() >= 1):
        command = begun("run", path, *where(store, "--workers", "2"))
        try:
            until(reached, 120)
            assert command.poll() is None
        finally:
            command.kill()
            for pid in workers_of(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not workers_of(store))
        assert choice_in(undisturbed.plan, Store(str(store))).chosen is None
    done = nagbench("run", path, *where(store, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert result(undisturbed.plan, Store(str(store))) == result_of(undisturbed)


# (b) The same choice


def test_the_exhaustive_grid_chooses_alike(tmp_path: Path) -> None:
    """On the features of the digits classifier, within the margin: every candidate with all samples of the choice."""
    margin = 0.02
    text = changed(RACE, "[pixels]", "[{name: digits, steps: 100}]", "steps: 30", "steps: 200")
    text = changed(text, "arms:\n", f"compare: {{margin: {margin:.0%}}}\narms:\n", MATCHED, "")
    race = choice_of(run_here(sweep(tmp_path, text), tmp_path / "store"))
    tune = next(line for line in RACE.splitlines(keepends=True) if line.startswith("tune"))
    alone = ("name: race", "name: exhaustive", tune, "", "count: 100", "count: 200", "seed: 0}", "seed: 1}")
    grid = run_here(sweep(tmp_path, changed(text, *alone, "tune:", "grid:"), "grid.yaml"), tmp_path / "store")
    scores = {
        cell["params"]["nag.scale"]: cell["metrics"]["fid"] for cell in grid.document()["cells"] if cell["arm"] == "nag"
    }
    assert len(scores) == 8
    assert race.chosen is not None
    corrected = {scale: score["extrapolated"] for scale, score in scores.items()}
    assert None not in corrected.values()
    best = min(scores[scale]["value"] for scale in scores)
    assert corrected[race.chosen.params["nag.scale"]] <= min(corrected.values()) + margin * best
    assert race.samples < race.exhaustive
    assert grid.did["sample"] == race.exhaustive - race.samples + 200  # and the plain arm: no block is made twice


# (c) The samples that choose are not those that compare


def test_the_comparison_is_on_other_samples(quick: Ran) -> None:
    current = Choices(quick.plan, quick.store).current(Done(quick.store))
    choice = choice_of(quick)
    assert choice.chosen is not None
    arms = {cell.arm: cell for cell in current.cells}
    assert len(current.cells) == 3
    assert arms["nag"].params["nag.scale"] == choice.chosen.params["nag.scale"]
    for cell in current.cells:
        assert quick.plan.tasks[cell.stream].params["seed"] == 0
        assert len(quick.store.list(f"blocks/{cell.stream}")) == 100 // BLOCK
        for scored in cell.scores:
            assert quick.store.exists(quick.plan.tasks[scored.task].record_name)
    (race, follower) = quick.plan.races
    for candidate in (*race.candidates, *follower.candidates):
        assert {quick.plan.tasks[stream].params["seed"] for stream in candidate.streams} <= {1}
        if candidate.place != choice.chosen.place:
            for cell in candidate.cells:
                assert quick.store.list(f"blocks/{cell.stream}") == []
                assert not any(quick.store.exists(quick.plan.tasks[one.task].record_name) for one in cell.scores)
    for trial in choice.trials:
        (stream,) = next(c for c in race.candidates if c.place == trial.place).streams
        assert len(quick.store.list(f"blocks/{stream}")) == trial.count // BLOCK


# (d), (e) Two engines; damage


def test_two_engines_on_one_race(quick: Ran, tmp_path: Path) -> None:
    runs = [begun("run", quick.plan.sweep.path, *where(tmp_path / "store", "--workers", "1")) for _ in range(2)]
    for run in runs:
        done = run.end()
        assert done.returncode == 0, done.stderr
    assert result(quick.plan, Store(str(tmp_path / "store"))) == result_of(quick)


@pytest.mark.parametrize("damage", ["cut", "changed", "of another shape"])
def test_a_damaged_step_is_made_again(undisturbed: Ran, tmp_path: Path, damage: str) -> None:
    for number in range(len(steps(undisturbed.store))):
        folder = tmp_path / str(number)
        store = Store(str(shutil.copytree(undisturbed.store.root, folder)))
        digest = undisturbed.plan.races[0].steps[number]
        path = folder / "records" / "select" / f"{digest}.json"
        if damage == "of another shape":
            path.unlink()
            store.create_record(f"records/select/{digest}.json", {"files": {}, "started": 0, "seconds": 0, "chosen": 3})
        else:
            text = path.read_text()
            path.write_text(text[:100] if damage == "cut" else text.replace('"chosen"', '"chasen"'))
        ran = run_here(undisturbed.plan.sweep.path, folder)
        assert (ran.failed, ran.did) == ({}, {"select": 1})
        assert list(folder.glob(f"quarantine/**/{digest}*"))
        assert result_of(ran) == result_of(undisturbed)


# (f) Samples that are not finite

NOT_A_NUMBER = '''\
from typing import ClassVar

from nag.guidance import Term
from nag.registry import method


@method
class Broken:
    """NAG, but nothing is left of it from scale 2 on."""

    scale: float
    needs: ClassVar[frozenset[str]] = frozenset({"null_noise"})
    off = property(lambda self: self.scale == 0)

    def terms(self) -> tuple[Term, ...]:
        by = BROKEN if self.scale >= 2 else self.scale
        return Term(False, False, by), Term(True, False, -by)
'''


def broken(folder: Path, values: str, by: str) -> Path:
    """The race with a user's guidance that breaks at scales from 2 on."""
    (folder / "guidance.py").write_text(NOT_A_NUMBER.replace("BROKEN", by))
    arm = f"{{broken: {{use: ./guidance.py:Broken, scale: {{tune: {values}}}}}}}"
    return sweep(folder, changed(few(), "{nag: {scale: {tune: [1, 2, 4]}}}", arm))


@pytest.mark.parametrize("by", ["1e30", 'float("nan")'])
def test_a_candidate_that_is_not_finite_is_out(tmp_path: Path, by: str) -> None:
    path = broken(tmp_path, "[1, 2, 1.5]", by)
    done = nagbench("run", path, *where(tmp_path / "store", "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert "samples stopped being finite at step" in done.stderr
    ran = run_here(path, tmp_path / "store")
    assert (ran.failed, ran.backend) == ({}, None)
    first = ran.store.read_record(f"records/select/{ran.plan.races[0].steps[0]}.json")
    rows = {row["place"][0]: row["value"] for row in first["scored"]}
    assert [place for place, value in rows.items() if value is None] == [1]
    choice = choice_of(ran)
    assert choice.chosen is not None
    assert choice.chosen.params["broken.scale"] in (1, 1.5)
    assert {cell["arm"] for cell in ran.document()["cells"] if cell["metrics"]} == {"plain", "nag", "matched"}


def test_all_candidates_that_are_not_finite(tmp_path: Path) -> None:
    """The arm fails with the reason, and the one that matches it; the others are done."""
    path = broken(tmp_path, "[2, 3]", "1e30")
    done = nagbench("run", path, *where(tmp_path / "store", "--workers", "2"))
    assert done.returncode == 1, done.stderr
    assert "samples stopped being finite at step" in done.stdout + done.stderr
    told = nagbench("report", path, "--store", tmp_path / "store", "--tracking", "none", "--json")
    found = json.loads(told.stdout)
    assert [cell["arm"] for cell in found["cells"] if cell["metrics"]] == ["plain"]
    ran = run_here(path, tmp_path / "store")
    assert len(ran.failed) == 2
    assert all("finite" in reason for reason in ran.failed.values())
    assert choice_of(ran).chosen is None


def test_what_was_mended_since_is_in_the_race(quick: Ran, tmp_path: Path) -> None:
    """A training that was not finite once, on a broken machine, and has a network now."""
    store = Store(str(shutil.copytree(quick.store.root, tmp_path / "store")))
    for step in quick.plan.races[0].steps:
        (tmp_path / "store" / "records" / "select" / f"{step}.json").unlink(missing_ok=True)
    race = quick.plan.races[0]
    stream = race.candidates[0].streams[0]
    broken = {"cause": "not_finite", "reason": "values are not finite", "time": 1.0, "at": 0}
    for digest, kind in ((str(quick.plan.tasks[stream].params["network"]), "train"), (stream, "sample")):
        store.create_record(f"attempts/{digest}/1.json", broken | {"kind": kind})
    ran = run_here(quick.plan.sweep.path, store.root)
    assert not ran.failed
    assert result_of(ran) == result_of(quick)


# (g) Match


def test_matched_is_cfg_with_that_scale(quick: Ran, tmp_path: Path) -> None:
    (name,) = quick.store.list("records/measure")
    scale = quick.store.read_record(f"records/measure/{name}")["values"]["effective_scale"]["value"]
    written = float(f"{max(1.0, scale):.4g}")
    assert written > 1
    choice = choice_of(quick)
    assert choice.chosen is not None
    tune = next(line for line in RACE.splitlines(keepends=True) if line.startswith("tune"))
    arms = few().partition("arms:")[2]
    text = changed(few(), arms, f"\n  by_hand: {{cfg: {{scale: {written}}}}}\n", tune, "")
    done = nagbench("run", sweep(tmp_path, text), *where(tmp_path / "store", "--workers", "1"))
    assert done.returncode == 0, done.stderr
    store = Store(str(tmp_path / "store"))
    (by_hand,) = plan(read_sweep(tmp_path / "sweep.yaml")).cells
    current = Choices(quick.plan, quick.store).current(Done(quick.store))
    matched = next(cell for cell in current.cells if cell.arm == "matched")
    for number in range(100 // BLOCK):
        theirs = quick.store.read_arrays(f"blocks/{matched.stream}/{number:06d}.safetensors")[0]
        mine = store.read_arrays(f"blocks/{by_hand.stream}/{number:06d}.safetensors")[0]
        assert theirs.keys() == mine.keys()
        for key in mine:
            np.testing.assert_array_equal(theirs[key], mine[key])
    assert [cell.matched for cell in collect(quick.plan, quick.store).of("matched")] == [written]
    told = {cell["arm"]: cell["metrics"] for cell in quick.document()["cells"]}
    done = nagbench("report", tmp_path / "sweep.yaml", "--store", store.root, "--tracking", "none", "--json")
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["metrics"]["fid"]["value"] == told["matched"]["fid"]["value"]


def test_a_metric_that_needs_more_samples_is_not_told(tmp_path: Path) -> None:
    """61 neighbours at least, and the first rung has 50 samples: the race goes on without it."""
    path = sweep(tmp_path, few("metrics: [fid]", "metrics: [fid, {name: precision_recall, k: 60}]"))
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    assert [trial.values.keys() for trial in choice_of(ran).trials] == [{"fid"}] * 3


# (h) One more candidate


def test_an_extended_race_uses_what_is_there(quick: Ran, tmp_path: Path) -> None:
    store = Store(str(shutil.copytree(quick.store.root, tmp_path / "store")))
    before = {name: Path(store.path(name)).stat().st_mtime_ns for name in blocks(store)}
    path = sweep(tmp_path, few(values="[1, 2, 4, 0.25]"))
    ran = run_here(path, store.root)
    assert not ran.failed
    after = {name: Path(store.path(name)).stat().st_mtime_ns for name in blocks(store)}
    assert before.items() <= after.items()  # nothing was made again
    race = ran.plan.races[0]
    added = next(candidate for candidate in race.candidates if candidate.params["nag.scale"] == 0.25)
    new = [name for name in after if name not in before]
    assert {*added.streams, *added.extracts} <= {name.split("/")[1] for name in new}
    assert ran.did["sample"] + ran.did["extract"] == BLOCK * len(new)
    fresh = run_here(path, tmp_path / "fresh")
    assert steps(fresh.store).items() <= steps(store).items()
    assert choice_of(fresh) == choice_of(ran)
