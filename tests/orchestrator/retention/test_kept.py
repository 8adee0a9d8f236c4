"""`keep`, `gc`, `du`: what goes is what nobody needs, the numbers stay, and a full disk is one message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import BadInput, SpecError
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done, missing
from orchestrator.report.results import collect, influence
from orchestrator.retention.garbage import File, Garbage, files, garbage, remove
from orchestrator.retention.policy import Tidier, cells_to_resample
from orchestrator.retention.usage import planned_space, usage
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import previews
from tests.orchestrator.conftest import TINY, Ran, begun, metrics, nagbench, run_here
from tests.orchestrator.made_images import FOLDER, picture_folder

# One network, one arm, 50 blocks: the shape of a cell of 50,000.
CELL = """\
name: cell
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 100, block: 2}
score: {features: [pixels], metrics: [fid, precision_recall]}
keep: KEEP
arms:
  plain: {}
"""


def with_keep(keep: str, text: str = TINY) -> str:
    return text.replace("sampler:", f"keep: {keep}\nsampler:", 1)


def sweep(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def there(ran: Ran, kind: str) -> int:
    """How many blocks of a kind the store has."""
    digests = [digest for digest, task in ran.plan.tasks.items() if task.kind == kind]
    return sum(len(ran.store.list(f"blocks/{digest}")) for digest in digests)


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """The tiny sweep with each `keep`, in a store of its own."""
    folder = tmp_path_factory.mktemp("lean")
    return {
        keep: run_here(sweep(folder / keep, with_keep(keep)), folder / keep / "store")
        for keep in ("features", "influence", "scores")
    }


@pytest.mark.parametrize(
    ("keep", "samples", "features", "arrays"),
    [("features", 0, 32, True), ("influence", 0, 0, True), ("scores", 0, 0, False)],
)
def test_what_stays(lean: dict[str, Ran], finished: Ran, keep: str, samples: int, features: int, arrays: bool) -> None:
    """Eight cells of two blocks, two extractors. Whatever stays, the numbers are the same and nothing is to do."""
    ran = lean[keep]
    assert not ran.failed
    assert (there(ran, "sample"), there(ran, "extract")) == (samples, features)
    assert metrics(ran.document()) == metrics(finished.document())
    assert missing(ran.plan, Done(ran.store)) == {}
    tasks = [entry["task"] for cell in collect(ran.plan, ran.store).cells for entry in cell.scores.values()]
    assert any(influence(ran.store, task) is not None for task in tasks) == arrays


def test_pictures_stay_with_the_features(lean: dict[str, Ran], finished: Ran) -> None:
    cell = finished.plan.cells[0]
    pictures, labels = previews.read(finished.store, cell.stream, cell.extracts)
    samples = finished.store.read_arrays(block_name(cell.stream, 0))[0]["samples"]
    np.testing.assert_array_equal(pictures, samples)
    for arrays in zip(
        previews.read(lean["features"].store, cell.stream, cell.extracts), (pictures, labels), strict=True
    ):
        np.testing.assert_array_equal(*arrays)
    with pytest.raises(FileNotFoundError):
        previews.read(lean["influence"].store, cell.stream, cell.extracts)


def test_streams_have_the_digests_that_they_have_without(lean: dict[str, Ran], finished: Ran) -> None:
    for ran in lean.values():
        assert ran.plan.tasks.keys() == finished.plan.tasks.keys()


def test_another_metric_samples_again_and_plan_says_so(lean: dict[str, Ran], tmp_path: Path) -> None:
    store = shutil.copytree(lean["influence"].store.root, tmp_path / "store")
    path = sweep(tmp_path, with_keep("influence").replace("metrics: [fid,", "metrics: [kid, fid,"))
    planned = plan(read_sweep(path))
    assert cells_to_resample(planned, Done(Store(str(store)))) == 8
    done = nagbench("plan", path, "--store", store)
    assert "8 cells have scores, but their samples or features were removed: they are sampled again" in done.stdout
    ran = run_here(path, store)
    assert ran.did["sample"] == 8 * 40
    assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)
    before = metrics(lean["influence"].document())
    after = metrics(ran.document())
    assert all(after[cell][name] == value for cell in before for name, value in before[cell].items())
    assert all({"kid", "kid_digits"} <= found.keys() for found in after.values())


@pytest.mark.parametrize("keep", ["influence", "scores"])
def test_a_difference_of_one_training_needs_the_influences(tmp_path: Path, keep: str) -> None:
    """Without them it has no interval, and says why."""
    picture_folder(tmp_path / "data")
    arms = f"keep: {keep}\narms:\n  plain: {{}}\n  nag: {{nag: {{scale: 1.0}}}}\n"
    text = FOLDER.replace("[kid]", "[fid]").replace("count: 24", "count: 48").partition("arms:")[0] + arms
    row = run_here(sweep(tmp_path, text), tmp_path / "store").document()["comparisons"][0]
    assert (row["metric"], row["arm"]) == ("fid", "nag")
    assert row["difference"] is not None
    assert (row["interval"], row["low"] is None) == (("influence", False) if keep == "influence" else (None, True))
    words = "no interval: there is one training seed, and its influences were not kept (keep: scores)"
    assert row["reason"] == (None if keep == "influence" else words)


@pytest.mark.parametrize("keep", ["samples", "features", "influence", "scores"])
def test_files_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    """At most 110 while it is made, and what the plan says; 5 once only scores, or scores and influences, stay."""
    path = sweep(tmp_path, CELL.replace("KEEP", keep))
    planned = plan(read_sweep(path))
    (cell,) = planned.cells
    mine = {cell.stream, *cell.extracts, *(scored.task for scored in cell.scores)}

    def count() -> int:
        names = [file.name for file in files(Store(str(tmp_path / "store"))) if not file.name.startswith("logs/")]
        return sum(any(digest in name for digest in mine) for name in names)

    most = []
    finished = Tidier.finished
    monkeypatch.setattr(Tidier, "finished", lambda self, digest: (most.append(count()), finished(self, digest))[1])
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    assert 100 < max(most) <= 110
    found = planned_space(planned)
    assert found.running.files <= 110
    assert count() <= found.after.files
    if keep in ("influence", "scores"):
        assert count() <= 5
        real = sum(file.bytes for file in files(ran.store) if any(digest in file.name for digest in mine))
        assert real < 20_000


def test_what_another_sweep_wants_stays(finished: Ran, tmp_path: Path) -> None:
    """One that keeps its samples, and one that is queued and has nothing yet."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    mine = sweep(tmp_path, with_keep("scores").replace("name: tiny", "name: mine"), "mine.yaml")
    ran = run_here(mine, store.root)
    assert (there(ran, "sample"), there(ran, "extract")) == (16, 32)
    lean = sweep(tmp_path, with_keep("scores"))  # the other one lets go as well now, but asks for one more metric
    more = lean.read_text().replace("metrics: [fid,", "metrics: [kid, fid,")
    engine.keep_plan(plan(read_sweep(sweep(tmp_path, more, "more.yaml"))), store)
    Tidier(ran.plan, store).rest()
    assert (there(ran, "sample"), there(ran, "extract")) == (16, 32)
    done = run_here(tmp_path / "more.yaml", store.root)
    assert done.did == {"score": 8 * 2 + 2}
    assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)


def test_the_arms_of_another_run_stay(tmp_path: Path) -> None:
    """A sweep may be run arm by arm; what the last run did not name is not what nobody wants."""
    path = sweep(tmp_path, TINY)
    whole = run_here(path, tmp_path / "store")
    part = plan(read_sweep(path), frozenset({"nag"}))
    engine.keep_plan(part, whole.store)
    assert garbage(whole.store) == []


def test_two_engines_that_tidy(finished: Ran, tmp_path: Path) -> None:
    path = sweep(tmp_path, with_keep("influence"))
    options = ("--store", tmp_path / "store", "--tracking", "none", "--here", "--device", "cpu")
    for run in [begun("run", path, *options) for _ in range(2)]:
        done = run.end()
        assert done.returncode == 0, done.stderr
    ran = run_here(path, tmp_path / "store")
    assert ran.backend is None
    assert metrics(ran.document()) == metrics(finished.document())
    assert (there(ran, "sample"), there(ran, "extract")) == (0, 0)


# gc


@pytest.fixture
def shrunk(finished: Ran, tmp_path: Path) -> tuple[Store, Path]:
    """A store whose sweep has lost an arm since, and something of every other kind that nobody wants."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    path = sweep(tmp_path, TINY.replace("  cfg: {cfg: {scale: 1.5}}\n", ""))
    run_here(path, store.root)
    store.create("assets/" + "a" * 32 + "/net.pt", b"weights")
    store.create_record("attempts/" + "b" * 32 + "/1.json", {"reason": "it failed"})
    store.create("logs/" + "c" * 32 + ".log", b"what it said")
    store.create("code/" + "d" * 32 + "/mine.py", b"pass")
    old = Path(store.path("blocks/.000001.safetensors." + "0" * 32))
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    Path(store.path("blocks/.000002.safetensors." + "0" * 32)).write_bytes(b"somebody writes it just now")
    return store, path


def test_gc_shows_first_and_removes_what_nobody_wants(shrunk: tuple[Store, Path], finished: Ran) -> None:
    store, path = shrunk
    before = {file.name for file in files(store)}
    shown = nagbench("gc", "--store", store.root, "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    kinds = {entry["kind"]: entry["files"] for entry in found["kinds"]}
    # two cells: a stream and two extracts of two blocks each; 7 scores with 4 influences
    expected = {"blocks": 2 * 6, "records": 2 * 7, "files": 2 * 4, "plans": 2, "assets": 1, "code": 1, "logs": 1}
    assert kinds == expected | {"attempts": 1, "unfinished": 1}
    assert found["deleted"] is False
    assert {file.name for file in files(store)} == before
    assert "Nothing was removed; --delete removes them." in nagbench("gc", "--store", store.root).stdout
    done = nagbench("gc", "--store", store.root, "--delete")
    assert done.returncode == 0, done.stderr
    assert len(before) - len(list(files(store))) == found["files"]
    again = run_here(path, store.root)
    assert again.backend is None  # nothing that it needs has gone
    assert garbage(store) == []
    assert store.exists("blocks/.000002.safetensors." + "0" * 32)
    cfg = next(cell for cell in finished.plan.cells if cell.cell.arm == "cfg")
    assert not store.exists(f"blocks/{cfg.stream}")


def test_gc_of_what_was_set_aside(finished: Ran, tmp_path: Path) -> None:
    """Failed attempts at what is done by now, and damaged files; those at what is still to do stay."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    first, second = (cell.scores[0].task for cell in finished.plan.cells[:2])
    store.delete(finished.plan.tasks[second].record_name)
    for task in (first, second):
        store.create_record(f"attempts/{task}/1.json", {"reason": "the disk was away"})
    store.remove(block_name(finished.plan.cells[0].stream, 0))
    assert garbage(store) == []
    assert {each.what for each in garbage(store, quarantine=True)} == {"attempts", "quarantine"}
    remove(store, garbage(store, quarantine=True))
    assert (store.list(f"attempts/{first}"), store.list(f"attempts/{second}")) == ([], ["1.json"])
    assert store.list("quarantine") == []


def test_gc_stops_where_a_plan_cannot_be_read(finished: Ran, tmp_path: Path) -> None:
    """Else all of that sweep's results would be wanted by nobody."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    (name,) = store.list("plans")
    Path(store.path(f"plans/{name}")).write_text("{}")
    with pytest.raises(BadInput, match=r"the newest plan of sweep tiny in store .* is damaged.* run that sweep again"):
        garbage(store)
    lean = plan(read_sweep(sweep(tmp_path, with_keep("scores").replace("name: tiny", "name: other"))))
    assert Tidier(lean, store).rest() == 0


def test_removing_takes_empty_folders_with_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open()
    store.create("blocks/a/1", b"x")
    store.create("blocks/b/1", b"x")
    remove(store, [Garbage(File("blocks/a/1", 1, 0.0), "blocks")])
    assert store.list("blocks") == ["b"]


# du and the estimate


def test_du_counts_every_byte(finished: Ran, tmp_path: Path) -> None:
    found = usage(finished.store)
    real = [path.stat().st_size for path in Path(finished.store.root).rglob("*") if path.is_file()]
    assert (found.total.bytes, found.total.files) == (sum(real), len(real))
    named = sum(space.bytes for space in found.rows.values())
    assert named + found.others.bytes == found.total.bytes  # one sweep: nothing is shared
    done = nagbench("du", finished.plan.sweep.path, "--store", finished.store.root, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["total"]["bytes"] == sum(real)
    blocks = {row["arm"]: row["files"] for row in document["rows"] if row["kind"] == "sample"}
    assert blocks == {"plain": 2 * 2, "nag": 2 * 2 * 2, "cfg": 2 * 2}
    assert document["shared"]["files"] > 0  # both trainings, the references
    shown = nagbench("du", "--store", finished.store.root).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "tiny" in shown


def test_a_remote_store_is_counted_too(finished: Ran) -> None:
    store = Store("memory://kept-test")
    for file in files(finished.store):
        store.create(file.name, (Path(finished.store.root) / file.name).read_bytes())
    assert usage(store).rows == usage(finished.store).rows
    assert garbage(store) == []
    store.fs.rm(store.root, recursive=True)


def test_the_estimate_is_near_what_is_there(finished: Ran) -> None:
    found, real = planned_space(finished.plan), usage(finished.store)
    for kind, guess in (("sample", found.samples), ("extract", found.features), ("score", found.scores)):
        space = next(space for (_, known), space in real.rows.items() if known == kind)
        assert guess.bytes == pytest.approx(space.bytes, rel=0.5), kind
        assert space.files <= guess.files <= 2 * space.files
    assert found.unknown == ()


@pytest.mark.parametrize("keep", ["samples", "influence"])
def test_plan_says_disk_and_files(tmp_path: Path, keep: str) -> None:
    path = sweep(tmp_path, CELL.replace("KEEP", keep))
    found = planned_space(plan(read_sweep(path)))
    left = "" if keep == "samples" else f"; keep: influence leaves {found.after}"
    shown = nagbench("plan", path, "--store", tmp_path / "store")
    assert f"Disk for its cells: {found.running}{left}." in shown.stdout.splitlines()
    assert " kB in 106 files" in shown.stdout
    told = json.loads(nagbench("plan", path, "--store", tmp_path / "store", "--json").stdout)["disk"]
    assert told["running"] == {"bytes": found.running.bytes, "files": found.running.files}
    assert told["after"] == {"bytes": found.after.bytes, "files": found.after.files}
    assert (told["after"]["files"] < 10) == (keep == "influence")


# What is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_keep("feature"), "keep: unknown value of keep 'feature'. Did you mean 'features'? Known: features, infl"),
        (with_keep("{grid: [samples]}"), "keep: expected text"),
        (
            with_keep("scores").replace(TINY.splitlines()[8] + "\n", ""),
            "keep: a sweep without a score section always keeps samples; remove this key.",
        ),
    ],
)
def test_wrong_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_sweep(sweep(tmp_path, text))
    assert message in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("700k")`: a folder on a file system of its own, of this size; again, to make it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted: list[str] = []

    def sized(size: str) -> Path:
        how = ["-o", f"remount,size={size}"] if mounted else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        if os.geteuid() != 0 or subprocess.run(["mount", *how, folder], capture_output=True).returncode:
            pytest.skip("only root, where it may mount, can make a small disk")
        mounted.append(size)
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("where", [("--here",), ("--workers", "2")], ids=["here", "workers"])
def test_a_full_disk_is_one_message_and_no_loss(
    finished: Ran, tmp_path: Path, small_disk: Callable[[str], Path], where: tuple[str, ...]
) -> None:
    path = sweep(tmp_path, TINY)
    store = small_disk("1100k") / "store"
    done = nagbench("run", path, "--store", store, "--tracking", "none", *where, "--device", "cpu")
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert done.stderr.count("cannot be written") == 1
    assert "Traceback" not in done.stderr
    assert not list(Path(store).rglob(".*"))  # no half file
    assert any(Path(store).glob("records/*/*"))
    small_disk("50m")
    ran = run_here(path, store)
    assert 0 < ran.did["score"] <= 61
    assert metrics(ran.document()) == metrics(finished.document())
