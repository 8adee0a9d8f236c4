"""Kinds of device: blocks record which one sampled them; `measure` and the report notice another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nag import hardware
from nag.numerics import arithmetic
from orchestrator.errors import TaskError
from orchestrator.report.answer import limits
from orchestrator.report.comparisons import compare
from orchestrator.report.results import collect
from orchestrator.report.stamps import stamps_table
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import measure, sampled_again
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.task import Task
from tests.orchestrator.conftest import TINY, Ran, changed, run_here

METER = """\
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4, bins: 8}
    train: {steps: 4, batch: 16}
sampler: {name: euler, steps: 3}
measure: {name: noise_shift, estimator: meter, count: 30}
"""
SWEEP = changed(
    TINY,
    *("sampler: {name: euler, steps: 2}\n", METER),
    *("  plain: {}", "  plain: {network: sit}", "  nag: {nag: {scale: {grid: [1.0, 2.0]}}}\n", ""),
    *("  cfg: {cfg: {scale: 1.5}}", "  cfg: {network: sit, cfg: {scale: 1.5}}", "seed: {grid: [0, 1]}", "seed: 0"),
    *(", precision_recall, class_accuracy]", "]"),
)
ELSEWHERE = {"model": "Another CPU", "torch": "2.6.0", "threads": 1}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "sweep.yaml").write_text(SWEEP)
    ran = run_here(folder / "sweep.yaml", folder / "store")
    assert not ran.failed
    return ran


@pytest.fixture
def store(measured: Ran, tmp_path: Path) -> Store:
    shutil.copytree(Path(measured.store.url), tmp_path / "copy")
    return Store(str(tmp_path / "copy"))


def tasks(ran: Ran, kind: str) -> list[Task]:
    return [task for task in ran.plan.tasks.values() if task.kind == kind]


def rewritten(store: Store, stream: str, number: int, change: Callable[[dict[str, Any]], None], far: int = 0) -> None:
    """Replace a block: its record is changed, and one value of its samples is off by `far`."""
    arrays, record = read_block(store, stream, number)
    samples = arrays["samples"].copy()
    samples.flat[0] = int(samples.flat[0]) + (far if samples.flat[0] < 128 else -far)
    change(record)
    store.remove(block_name(stream, number))
    store.create_arrays(block_name(stream, number), {**arrays, "samples": samples}, record)


def unknown(record: dict[str, Any]) -> None:
    del record["kind_of_device"]


def elsewhere(record: dict[str, Any]) -> None:
    record["kind_of_device"] = ELSEWHERE


def as_it_is(record: dict[str, Any]) -> None:
    assert record["kind_of_device"] == hardware.kind("cpu")


def again(store: Store, task: Task) -> dict[str, Any]:
    """The record of a measurement that is repeated."""
    store.remove(task.record_name)
    measure.run(Context(store), task)
    return store.read_record(task.record_name)


def test_a_block_says_what_sampled_it(measured: Ran) -> None:
    for task in tasks(measured, "sample"):
        kind = read_block(measured.store, task.digest, 0)[1]["kind_of_device"]
        assert kind == {"model": hardware.processor(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    for task in tasks(measured, "score"):
        record = measured.store.read_record(task.record_name)
        assert record.get("kinds_of_device", [kind]) == [kind], "none for the floor, whose images were not sampled"


@pytest.mark.parametrize("change", [unknown, elsewhere])
def test_states_within_rounding_elsewhere(measured: Ran, store: Store, change: Callable[..., None]) -> None:
    """One step of the stored type is rounding, and the record and the report's stamp say so. Two steps are not."""
    task = tasks(measured, "measure")[0]
    assert again(store, task)["states"] is None
    rewritten(store, task.params["stream"], 1, change, far=1)
    found = again(store, task)
    assert found["states"].startswith("states within rounding of the samples: ")
    assert ("Another CPU" in found["states"]) == (change is elsewhere)
    results = collect(measured.plan, store)
    table = stamps_table(results)
    assert table is not None
    assert found["states"] in str(table)
    document = Ran(measured.plan, store, None, measured.observer, {}).document()
    said = [cell["stamps"]["shift_mean"].get("states") for cell in document["cells"]]
    assert sorted(map(str, said)) == sorted(["None", found["states"]])
    rows = [row for row in compare(results, store) if row.metric == "shift_mean"]
    assert [row.difference is None for row in rows] == [False], "it is compared all the same"
    rewritten(store, task.params["stream"], 1, lambda record: None, far=1)
    with pytest.raises(TaskError, match="more than rounding explains"):
        again(store, task)


def test_states_on_the_same_kind_are_equal(measured: Ran, store: Store) -> None:
    task = tasks(measured, "measure")[0]
    rewritten(store, task.params["stream"], 1, as_it_is, far=1)
    with pytest.raises(TaskError, match="on the same kind of device gave other samples"):
        again(store, task)


def test_another_micro_batch_is_within_rounding(measured: Ran, store: Store) -> None:
    task = tasks(measured, "measure")[0]
    rewritten(store, task.params["stream"], 0, lambda record: record.update(micro_batch=7), far=1)
    assert "micro_batch 7 and 256" in again(store, task)["states"]


@pytest.mark.parametrize(
    ("kept", "precision", "gap", "within"),
    [
        (np.zeros(4, np.uint8), {}, 1.0, True),
        (np.zeros(4, np.uint8), {}, 1.5, False),
        (np.zeros(4, np.float16), {}, 1.9e-3, True),
        (np.full(4, 9, np.float16), {}, 7.8e-3, True),  # one quantum of float16 there
        (np.full(4, 9, np.float16), {}, 1.6e-2, False),
        (np.zeros(4, np.float16), {"dtype": "bfloat16"}, 4e-2, True),
        (np.zeros(4, np.float16), {"tf32": True}, 6e-2, False),
        (np.zeros(4, np.uint8), {"dtype": "bfloat16"}, 6.0, True),
        (np.zeros(4, np.uint8), {"dtype": "bfloat16"}, 7.0, False),
        (np.zeros(4, np.float16), {"dtype": "bfloat16"}, np.nan, False),
    ],
)
def test_the_promised_tolerance(kept: np.ndarray, precision: dict[str, Any], gap: float, within: bool) -> None:
    assert sampled_again._within(np.full(4, gap), kept, precision) == within


def test_comparisons_across_kinds_are_marked(measured: Ran, store: Store) -> None:
    """If cells were sampled on several known kinds, or one on a known and another on an unrecorded kind."""

    def rows() -> list[dict[str, Any]]:
        return Ran(measured.plan, store, None, measured.observer, {}).document()["comparisons"]

    def notes() -> list[str]:
        results = collect(measured.plan, store)
        return [line for line in limits(results, compare(results, store), {}) if "kinds of device" in line]

    assert not notes()
    assert not any("devices" in row for row in rows())
    (cell, *_) = [cell for cell in measured.plan.cells if cell.cell.arm == "cfg"]
    digests = [scored.task for scored in cell.scores if measured.plan.tasks[scored.task].kind == "score"]
    for kinds, words in (([ELSEWHERE], "Another CPU, torch 2.6.0, threads 1"), ([{}], "unknown (sampled by an older")):
        for digest in digests:
            name = measured.plan.tasks[digest].record_name
            record = store.read_record(name)
            store.remove(name)
            store.create_record(name, {**record, "kinds_of_device": kinds})
        marked = [row for row in rows() if "devices" in row]
        assert {row["arm"] for row in marked} == {"cfg"}
        assert all(len(row["devices"]) == 2 and words in " ".join(row["devices"]) for row in marked)
        (line,) = notes()
        assert "cfg against plain" in line
        assert words in line


class Flags(TorchDispatchMode):
    """Records torch's flags at every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool, bool]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        backends = torch.backends
        self.seen.add((backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))
        return function(*args, **(kwargs or {}))


def test_extractors_and_their_trainings_are_exact(measured: Ran) -> None:
    """Whatever was set before: features with one digest must come from one arithmetic."""
    context = Context(measured.store, Options())
    context.tasks.update(measured.plan.tasks)
    extracts = [task for task in tasks(measured, "extract") if task.params["weights"]]
    extract, images = context.extractor(extracts[0].params), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with arithmetic("cpu", tf32=True, dtype="bfloat16"):
        with Flags() as flags:
            outputs = extract(images)
        assert flags.seen == {(False, False, False)}
        assert outputs["features"].dtype == torch.float32


def test_a_processor_is_known_by_its_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: A CPU @ 2 GHz\n"
    )
    assert hardware.processor(str(tmp_path / "cpuinfo")) == "A CPU @ 2 GHz"
    assert hardware.processor(str(tmp_path / "nothing"))
    assert hardware.differs(ELSEWHERE, ELSEWHERE) is None
    assert hardware.differs({**ELSEWHERE, "threads": 2}, ELSEWHERE) == "threads 2 and 1"
    assert hardware.differs(None, None) == "the kind of device was not recorded"
