"""Runs give the same numbers whatever the workers, order, micro-batch or accidents, and do nothing twice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nag.noise import normal
from nag.numerics import Precision
from orchestrator.execution import worker
from orchestrator.plan.progress import Done, missing
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import sample
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.task import Task
from tests.orchestrator.conftest import Ran, metrics, nagbench, run_here


def streams(ran: Ran) -> list[str]:
    return [digest for digest, task in ran.plan.tasks.items() if task.kind == "sample"]


def samples(store: Store, digest: str, number: int = 0) -> np.ndarray:
    return store.read_arrays(block_name(digest, number))[0]["samples"]


def copied(ran: Ran, folder: Path) -> Store:
    shutil.copytree(ran.store.root, folder / "store")
    return Store(str(folder / "store"))


def test_three_workers_make_the_bits_of_one(finished: Ran, write: Callable[..., Path], tmp_path: Path) -> None:
    """`finished` was done by one process in order; here three processes share the blocks in any order."""
    path = write()
    done = nagbench(
        "run", path, "--store", tmp_path / "store", "--tracking", "none", "--workers", "3", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    other = Store(str(tmp_path / "store"))
    for digest, task in finished.plan.tasks.items():
        if task.kind in ("sample", "extract"):
            for number in range(finished.plan.blocks[digest]):
                ours, theirs = (s.read_arrays(block_name(digest, number))[0] for s in (finished.store, other))
                for name in ours:
                    np.testing.assert_array_equal(ours[name], theirs[name])
    again = run_here(path, tmp_path / "store")
    assert again.backend is None
    assert metrics(again.document()) == metrics(finished.document())


def test_one_cell_in_this_process_on_whatever_device_there_is(finished: Ran, tmp_path: Path) -> None:
    """As in the README, without --device: every backend knows `auto`."""
    store = shutil.copytree(finished.store.root, tmp_path / "store")
    cell = finished.plan.cells[0].digest
    ran = nagbench("run", finished.plan.sweep.path, "--store", store, "--cell", cell, "--count", "44", "--here")
    assert ran.returncode == 0, ran.stderr
    assert "sample: all 20 samples done" in ran.stderr


def test_blocks_in_any_order(finished: Ran, tmp_path: Path) -> None:
    store = copied(finished, tmp_path)
    digest = streams(finished)[0]
    for number in range(2):
        store.delete(block_name(digest, number))
    worker.run(store.url, digest, [1])
    worker.run(store.url, digest, [0])
    for number in range(2):
        np.testing.assert_array_equal(samples(store, digest, number), samples(finished.store, digest, number))


@pytest.mark.parametrize("micro_batch", [1, 7, 20])
def test_another_micro_batch_agrees_before_storing(finished: Ran, micro_batch: int) -> None:
    """Within 1e-5, in every cell; compared with a micro-batch of the whole block."""
    for digest in streams(finished):
        task = finished.plan.tasks[digest]
        indices = np.arange(20)
        whole, _, _ = sample.draw(Context(finished.store, Options(micro_batch=20)), task, indices)
        parts, _, _ = sample.draw(Context(finished.store, Options(micro_batch=micro_batch)), task, indices)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_cells_are_paired(finished: Ran) -> None:
    """Sample i of two cells with one training seed has the same label; the noise is tested below."""
    by_network: dict[str, list[np.ndarray]] = {}
    for digest in streams(finished):
        arrays, _ = finished.store.read_arrays(block_name(digest, 1))
        by_network.setdefault(finished.plan.tasks[digest].params["network"], []).append(arrays["labels"])
    assert len(by_network) == 2
    assert all(len(arrays) > 2 and np.array_equal(arrays[0], each) for arrays in by_network.values() for each in arrays)
    first, second = (arrays[0] for arrays in by_network.values())
    assert not np.array_equal(first, second), "trainings are replicates: each has labels of its own"


def test_initial_noise_is_shared_by_the_cells_of_a_training_seed(
    finished: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise(0) that each cell's sampler gets, observed while it runs."""
    from nag.samplers.euler import Euler

    seen: dict[int, list[np.ndarray]] = {}
    march = Euler.__call__

    def watched(self, field, y, noise, *, observe=None):  # type: ignore[no-untyped-def]
        seen.setdefault(seed, []).append(noise(0).numpy())
        return march(self, field, y, noise, observe=observe)

    monkeypatch.setattr(Euler, "__call__", watched)
    for planned in finished.plan.cells:
        seed = planned.cell.params["train.seed"]
        sample.draw(Context(finished.store), finished.plan.tasks[planned.stream], np.arange(5))
    assert {seed: len(found) for seed, found in seen.items()} == {0: 4, 1: 4}
    assert all(np.array_equal(found[0], other) for found in seen.values() for other in found)
    assert np.array_equal(seen[0][0], normal(0, range(5), 0, (1, 8, 8))), "seed 0 has the noise of sample.seed"
    correlation = np.corrcoef(seen[0][0].ravel(), seen[1][0].ravel())[0, 1]
    assert abs(correlation) < 5 / seen[0][0].size ** 0.5


def test_off_is_plain(write: Callable[..., Path]) -> None:
    """NAG 0 and CFG 1 are plain sampling: the same stream, so they cost nothing."""
    ran = read_sweep(write("scale: {grid: [1.0, 2.0]}", "scale: 0.0", "scale: 1.5", "scale: 1.0"))
    from orchestrator.plan.make import plan

    planned = plan(ran)
    assert len(planned.cells) == 6
    assert len({cell.digest for cell in planned.cells}) == 2  # one for each training seed
    assert sum(task.kind == "sample" for task in planned.tasks.values()) == 2


def test_off_makes_one_call(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("scale: {grid: [1.0, 2.0]}", "scale: 0.0", "seed: {grid: [0, 1]}", "seed: 0")
    calls = {cell["arm"]: cell["network_calls"] for cell in run_here(path, tmp_path / "s").document()["cells"]}
    assert calls == {"plain": 2, "nag": 2, "cfg": 4}


def test_a_second_run_does_nothing(finished: Ran) -> None:
    assert missing(finished.plan, Done(finished.store)) == {}


def extended(finished: Ran, tmp_path: Path, write: Callable[..., Path], *changes: str) -> dict[str, float]:
    store = copied(finished, tmp_path)
    return run_here(write(*changes), store.root).did


def test_adding_a_scale_runs_only_its_cells(finished: Ran, tmp_path: Path, write: Callable[..., Path]) -> None:
    did = extended(finished, tmp_path, write, "[1.0, 2.0]", "[1.0, 2.0, 3.0]")
    assert did == {"sample": 2 * 40, "extract": 2 * 2 * 40, "score": 2 * 7}


def test_adding_a_metric_only_scores(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_here(write("fid, precision_recall, class", "fid, class"), tmp_path / "store")
    did = run_here(write(), tmp_path / "store").did
    assert did == {"score": 8 * 2 + 2}  # eight cells and the held-out images, on two extractors


def test_adding_an_extractor_only_extracts(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_here(write("pixels, {name: digits, steps: 5}", "{name: digits, steps: 5}"), tmp_path / "store")
    did = run_here(
        write("pixels, {name: digits, steps: 5}", "{name: digits, steps: 5}, pixels"), tmp_path / "store"
    ).did
    assert did == {"reference": 1, "extract": 8 * 40, "score": 8 * 3 + 2}  # FID, to held-out images too, precision


def test_raising_count_samples_new_blocks_only(finished: Ran, tmp_path: Path, write: Callable[..., Path]) -> None:
    did = extended(finished, tmp_path, write, "count: 40", "count: 50")
    assert did == {"sample": 8 * 20, "extract": 2 * 8 * 20, "score": 8 * 7}


def test_lowering_count_only_scores_a_prefix(finished: Ran, tmp_path: Path, write: Callable[..., Path]) -> None:
    did = extended(finished, tmp_path, write, "count: 40", "count: 30")
    assert did == {"score": 8 * 7}


def test_a_network_is_loaded_once(finished: Ran) -> None:
    """Four cells of each of two networks, several blocks each: two loads."""
    assert finished.backend is not None
    assert finished.backend.worker.context.loads == 2


def test_a_corrupt_block_is_made_again(finished: Ran, tmp_path: Path) -> None:
    """Flipped bits in features and samples of a cell that is not scored yet: set aside, reported, and made again."""
    store = copied(finished, tmp_path)
    features = next(d for d, task in finished.plan.tasks.items() if task.kind == "extract")
    stream = finished.plan.tasks[features].params["stream"]
    for name in (block_name(features, 0), block_name(stream, 0)):
        path = Path(store.path(name))
        data = bytearray(path.read_bytes())
        data[-3] ^= 0x10
        path.write_bytes(bytes(data))
    for task in finished.plan.tasks.values():
        if task.kind == "score" and task.params["features"] == features:
            store.delete(task.record_name)
    ran = run_here(finished.plan.sweep.path, store.root)
    assert [note for note in ran.observer.notes if block_name(features, 0) in note and "made again" in note]
    assert [note for note in ran.observer.notes if block_name(stream, 0) in note and "made again" in note]
    assert metrics(ran.document()) == metrics(finished.document())
    assert len(store.list(f"quarantine/blocks/{stream}")) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "doubled"])
@pytest.mark.parametrize("kind", ["record", "weights", "reference", "block"])
def test_any_damaged_file_is_repaired(finished: Ran, tmp_path: Path, kind: str, damage: str) -> None:
    store = copied(finished, tmp_path)
    tasks = finished.plan.tasks
    stream = streams(finished)[0]
    name = {
        "record": next(t.record_name for t in tasks.values() if t.kind == "score"),
        "weights": f"files/{tasks[stream].params['network']}/network.safetensors",
        "reference": f"files/{finished.plan.floors[0][0]}/train.features.0000.safetensors",
        "block": block_name(stream, 1),
    }[kind]
    path = Path(store.path(name))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x04
    half = bytes(data[: len(data) // 2])
    path.write_bytes({"truncated": half, "flipped": bytes(data), "empty": b"", "doubled": bytes(data) * 2}[damage])
    for digest, task in tasks.items():  # what reads the damaged file is to be done again
        if task.kind == "score" and kind != "record":
            store.delete(task.record_name)
        if task.kind == "extract" and kind in ("weights", "block"):
            store.delete(block_name(digest, 0))
            store.delete(block_name(digest, 1))
        if task.kind == "sample" and kind == "weights":
            store.delete(block_name(digest, 0))
    ran = run_here(finished.plan.sweep.path, store.root)
    assert metrics(ran.document()) == metrics(finished.document())
    assert not ran.failed


@pytest.mark.parametrize("kind", ["sample", "extract"])
@pytest.mark.parametrize("source", ["number", "stream"])
def test_a_whole_block_in_the_wrong_place_is_made_again(finished: Ran, tmp_path: Path, kind: str, source: str) -> None:
    """A block with another number, or of another cell: its checksum is right, its name is not."""
    store = copied(finished, tmp_path)
    digest, other = [d for d, task in finished.plan.tasks.items() if task.kind == kind][:2]
    wrong = block_name(digest, 0) if source == "number" else block_name(other, 1)
    data = Path(store.path(wrong)).read_bytes()
    Path(store.path(block_name(digest, 1))).write_bytes(data)
    for key, task in finished.plan.tasks.items():  # what reads it is to be done again
        if task.kind == "score":
            store.delete(task.record_name)
        if task.kind == "extract" and kind == "sample" and task.params["stream"] == digest:
            store.delete(block_name(key, 1))
    ran = run_here(finished.plan.sweep.path, store.root)
    assert [note for note in ran.observer.notes if block_name(digest, 1) in note and "is another block" in note]
    assert metrics(ran.document()) == metrics(finished.document())


def test_a_nan_network_fails_its_cells_only(write: Callable[..., Path], tmp_path: Path) -> None:
    """A training with an absurd learning rate: each seed fails, with the step, and nothing that needs it is tried."""
    path = write("lr: 1e-2", "lr: {grid: [1e-2, 1e30]}", "seed: {grid: [0, 1]}", "seed: 0")
    ran = run_here(path, tmp_path / "store")
    found = ran.document()
    assert {cell["params"]["train.lr"] for cell in found["cells"]} == {0.01}
    assert len(found["cells"]) == len(found["failed"]) == 4
    assert all(re.match(r"the training loss is (nan|inf) at step \d of 8", cell["reason"]) for cell in found["failed"])
    assert found["missing"] == []


def test_samples_that_turn_nan_name_their_step(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(
        "scale: {grid: [1.0, 2.0]}", "scale: 1.0", "steps: 2}", "steps: 40}", "seed: {grid: [0, 1]}", "seed: 0"
    )
    ran = run_here(path, tmp_path / "store")
    digest = next(d for d in streams(ran) if ran.plan.tasks[d].params["guidance"])
    task = ran.plan.tasks[digest]
    context = Context(ran.store)
    field = context.network(task.params["network"], Precision())
    final = dict(field.module.named_parameters())["final_layer.linear.bias"]  # type: ignore[attr-defined]
    final.data.fill_(float("inf"))
    with pytest.raises(Exception, match=r"samples stopped being finite at step 1 of 40") as caught:
        sample.draw(context, Task(task.kind, task.params), np.arange(4))
    assert worker.outcome(caught.value)["outcome"] == "failed"


def test_precision_is_part_of_a_stream(finished: Ran, write: Callable[..., Path], tmp_path: Path) -> None:
    """bfloat16 gives slightly different samples, under other digests; the trainings are the same."""
    ran = run_here(write("sampler:", "precision: {dtype: bfloat16}\nsampler:"), tmp_path / "store")
    assert not ran.failed
    trained = [{d for d, t in r.plan.tasks.items() if t.kind == "train"} for r in (ran, finished)]
    assert trained[0] == trained[1]
    assert not set(streams(ran)) & set(streams(finished))
    ours, theirs = (samples(r.store, streams(r)[0]).astype(float) for r in (ran, finished))
    assert 0 < float(np.sqrt(np.mean((ours - theirs) ** 2))) < 0.05 * 127.5
