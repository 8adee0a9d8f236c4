"""The effective scale as a task, from YAML to report; and scales of guidance that other tasks measure."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nag.effective_scale import BINS, SAME
from orchestrator.backends.local import Local
from orchestrator.backends.slurm.arrays import arrays
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.errors import MissingFile
from orchestrator.execution import engine
from orchestrator.execution.bundles import bundles
from orchestrator.execution.durations import Speeds
from orchestrator.execution.protocol import Work
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import plan_of_sweep
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.comparisons import compare, groups
from orchestrator.report.content import report_content
from orchestrator.report.estimates import chosen, headline_metric
from orchestrator.report.figures.levels import line_of
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks import measured
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.task import Task
from orchestrator.tracking.runs import runs
from tests.orchestrator import nursery
from tests.orchestrator.conftest import Quiet, Ran, changed, run_here

SWEEP = """\
name: scales
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 30, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
sampler: {name: heun, steps: 3}
sample: {count: 40, block: 20}
measure: {name: effective_scale, count: 30}
score: {features: [pixels], metrics: [fid, precision_recall]}
arms:
  plain: {}
  cfg: {cfg: {scale: 1.5}}
  part: {cfg: {scale: 3.0, interval: {low: 0.4, high: 0.7}}}
  nag: {nag: {scale: 0.5}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("scales")
    (folder / "sweep.yaml").write_text(SWEEP)
    ran = run_here(folder / "sweep.yaml", folder / "store")
    assert not ran.failed
    return ran


def scales(ran: Ran) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for cell in ran.document()["cells"]:
        found.setdefault(cell["arm"], []).append(cell["metrics"]["effective_scale"]["value"])
    return found


def test_from_a_sweep_to_its_records(ran: Ran) -> None:
    found = scales(ran)
    assert found["plain"] == [1.0, 1.0]
    assert found["cfg"] == pytest.approx([1.5, 1.5], rel=1e-4)
    assert all(1 < value < 3 for value in found["part"])
    assert all(value > 1 for value in found["nag"])
    cell = next(cell for cell in ran.document()["cells"] if cell["arm"] == "nag")
    score = cell["metrics"]["effective_scale"]
    assert score["low"] < score["value"] < score["high"]
    assert cell["stamps"]["effective_scale"] == {"measure": {"name": "effective_scale", "version": 1}, "count": 30}
    assert cell["network_calls"] == 2 * 6, "the evaluations of the measurement are not the cell's"
    task = next(t for t in ran.plan.tasks.values() if t.kind == "measure" and t.digest in _measures(ran.plan, "nag"))
    record = ran.store.read_record(task.record_name)
    assert record["network_calls"] == 2 * 6
    assert record["states"] is None, "the samples are the stored ones, bit for bit"
    assert record["curve"]["t"] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert record["curve"]["count"] == record["count"] == 30


def _measures(planned: Plan, arm: str) -> list[str]:
    scored = [one for cell in planned.cells if cell.arm == arm for one in cell.scores]
    return [one.task for one in scored if one.metric.name == "effective_scale"]


def test_its_place_in_reports(ran: Ran) -> None:
    """Beside NFE with its interval, with a figure, and never what decides; of the stored plan as well."""
    for planned in (ran.plan, plan_of_sweep(ran.store, "scales")):
        results = collect(planned, ran.store)
        rows = compare(results, ran.store)
        shown = report_content(results, rows, ran.store, "")
        table = shown.arms[-1]
        assert table.title == "Other metrics and cost"
        names = [column.heading for column in table.columns]
        assert names[-3:] == ["NFE", "effective scale", "worker time a cell"]
        cfg, nag = ([cell.text for cell in row.cells][-2] for row in table.rows if row.arm in ("cfg", "nag"))
        assert cfg == "1.50"
        assert float(nag) > 1
        details = [row.cells[-2].detail for row in table.rows if row.arm == "nag"]
        assert details[0].startswith("[")
        assert shown.shift is None
        [drawing] = [one for one in shown.drawings if one.section == "effective_scale"]
        assert "It compares lengths, not directions." in drawing.caption
        assert "Effective guidance scale" in [section.title for section in shown.sections()]
        assert headline_metric(results) == "fid"
        assert not results.is_distance("effective_scale")
        assert {row.metric for row in rows} >= {"fid", "effective_scale"}
        assert "effective_scale" in cells_csv(results).splitlines()[0]
        [run] = [run for run in runs(results) if run.name.startswith("nag") and run.params.get("train.seed") == "0"]
        assert len([point for point in run.points if point[0] == "effective_scale_by_level"]) == 4


def test_alone_it_chooses_nothing(tmp_path: Path) -> None:
    """A sweep without scores: the table shows what was measured, and no arm is said to be better."""
    text = changed(SWEEP, "score: {features: [pixels], metrics: [fid, precision_recall]}\n", "", "{grid: [0, 1]}", "0")
    (tmp_path / "sweep.yaml").write_text(changed(text, "{name: effective_scale, count: 30}", "effective_scale"))
    alone = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    results = collect(alone.plan, alone.store)
    rows = compare(results, alone.store)
    shown = report_content(results, rows, alone.store, "")
    assert headline_metric(results) is None
    assert len(chosen(results)) == 4
    assert shown.answer == ()
    assert [table.title for table in shown.arms] == ["Cost"]
    assert next(row for row in rows if row.arm == "nag").interval == "influence", "paired, of one training"
    assert all(cell["metrics"]["effective_scale"]["reason"] is None for cell in alone.document()["cells"])


def test_an_adaptive_solver_has_a_curve_by_bins(tmp_path: Path) -> None:
    """Its levels differ between blocks and trainings; bins do not, so that trainings have a mean curve."""
    pytest.importorskip("torchdiffeq")
    text = changed(SWEEP, "{name: heun, steps: 3}", "{name: dopri5, atol: 0.01, rtol: 0.01}", "  part", "# part")
    (tmp_path / "sweep.yaml").write_text(text)
    adaptive = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    assert scales(adaptive)["cfg"] == pytest.approx([1.5, 1.5], rel=1e-4)
    results = collect(adaptive.plan, adaptive.store)
    lines = {
        arm: line_of(groups(results, arm)[0], lambda cell: cell.effective_scale, "scale") for arm in ("cfg", "nag")
    }
    assert lines["cfg"] is not None
    assert lines["nag"] is not None
    assert lines["cfg"].seeds == 2
    assert {*lines["cfg"].t} <= {*((np.arange(BINS) + 0.5) / BINS)}
    np.testing.assert_allclose(lines["cfg"].value, 1.5, rtol=1e-4)


# Scales of guidance that are measured. The reader writes none yet, so a plan is made by hand.


def matched(planned: Plan, arm: str, by: str) -> Plan:
    """The plan with CFG's scale in an arm measured from the streams of another: the mean over training seeds."""
    scale = measured.measured(_measures(planned, by))
    streams = {cell.stream for cell in planned.cells if cell.arm == arm}
    renamed: dict[str, str] = {}
    made: dict[str, Task] = {}
    for digest, task in planned.tasks.items():
        params, inputs = _renamed(task.params, renamed), tuple(renamed.get(each, each) for each in task.inputs)
        if digest in streams:
            [guidance] = params["guidance"]
            params["guidance"] = [{**guidance, "fields": {**guidance["fields"], "scale": scale}}]
            inputs += measured.inputs_of(params["guidance"][0])
        new = Task(task.kind, params, inputs, task.source)
        renamed[digest] = new.digest
        made[new.digest] = new
    order = TopologicalSorter({digest: set(task.inputs) for digest, task in made.items()}).static_order()
    cells = tuple(
        replace(
            cell,
            stream=renamed[cell.stream],
            extracts=tuple(renamed[each] for each in cell.extracts),
            scores=tuple(replace(scored, task=renamed[scored.task]) for scored in cell.scores),
        )
        for cell in planned.cells
    )
    return replace(
        planned,
        tasks={digest: made[digest] for digest in order},
        blocks={renamed[digest]: number for digest, number in planned.blocks.items()},
        goals=frozenset(renamed[goal] for goal in planned.goals),
        cells=cells,
    )


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def run_local(planned: Plan, store: Store, workers: int = 2) -> None:
    with nursery.opened():
        assert not engine.run(planned, store, lambda: Local(store, workers, Options()), Quiet())


def samples(planned: Plan, store: Store, arm: str) -> list[np.ndarray]:
    streams = [cell.stream for cell in planned.cells if cell.arm == arm]
    return [read_block(store, stream, number)[0]["samples"] for stream in streams for number in (0, 1)]


def test_a_measured_scale_is_that_number_typed_in(ran: Ran, tmp_path: Path) -> None:
    """On local workers from an empty store; then the same command does nothing."""
    planned, store = matched(ran.plan, "cfg", "nag"), Store(str(tmp_path / "store"))
    run_local(planned, store)
    assert not missing(planned, Done(store))
    value = measured.mean_scale(scales(ran)["nag"])
    assert value == float(f"{np.mean(scales(ran)['nag']):.4g}")
    (tmp_path / "typed.yaml").write_text(changed(SWEEP, "cfg: {scale: 1.5}", f"cfg: {{scale: {value}}}"))
    typed = run_here(tmp_path / "typed.yaml", Path(shutil.copytree(ran.store.root, tmp_path / "typed")))
    for ours, theirs in zip(samples(planned, store, "cfg"), samples(typed.plan, typed.store, "cfg"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(samples(planned, store, "cfg")[0], samples(ran.plan, ran.store, "cfg")[0])
    again = Ran(planned, store, None, Quiet(), {})
    assert scales(again)["cfg"] == pytest.approx([value, value], rel=1e-3), "it moves the samples as far as NAG"
    assert plan_of_sweep(store, "scales").tasks.keys() == planned.tasks.keys()


def test_what_is_not_kept_is_not_measured_again(ran: Ran, tmp_path: Path) -> None:
    """keep: scores removes NAG's samples once they are measured; the matched arm needs the record alone."""
    text = changed(SWEEP, "score:", "keep: scores\nscore:")
    (tmp_path / "sweep.yaml").write_text(text)
    planned, store = matched(plan(read_sweep(tmp_path / "sweep.yaml")), "cfg", "nag"), Store(str(tmp_path / "store"))
    run_local(planned, store, workers=1)
    assert not store.list("blocks") or not any(store.list(f"blocks/{name}") for name in store.list("blocks"))
    [cell] = [cell for cell in planned.cells if cell.arm == "cfg" and cell.params["train.seed"] == 0]
    name = planned.tasks[cell.scores[0].task].record_name
    before = store.read_record(name)["values"]
    store.remove(name)
    kinds = [planned.tasks[digest].kind for digest in missing(planned, Done(store))]
    assert sorted(kinds) == ["extract", "sample", "score"], "no measurement"
    run_local(planned, store, workers=1)
    assert store.read_record(name)["values"] == before


def queued(planned: Plan, store: Store) -> list[Work]:
    """All missing work as an engine queues it, which raises KeyError if a bundle comes before one that it needs."""
    todo = missing(planned, Done(store))
    makers: dict[str, set[int]] = {}
    work = []
    for handle, each in enumerate(bundles(planned, "plan", todo, todo, lambda *_: 1, {})):
        work.append(Work(handle, each.bundle, frozenset(maker for need in each.needs for maker in makers[need])))
        for digest, _ in each.bundle.steps:
            makers.setdefault(digest, set()).add(handle)
    for each in work:  # all makers of a need, not only those before it
        needs = {need for digest, _ in each.bundle.steps for need in planned.tasks[digest].inputs}
        own = {digest for digest, _ in each.bundle.steps}
        assert each.after == {maker for need in needs - own for maker in makers[need]}
    return work


def test_bundles_and_arrays_come_after_what_they_need(ran: Ran, tmp_path: Path) -> None:
    planned = matched(ran.plan, "cfg", "nag")
    work = queued(planned, Store(str(tmp_path / "store")))
    measures = {each.handle for each in work if each.bundle.kind == "measure"}
    streams = {cell.stream for cell in planned.cells if cell.arm == "cfg"}
    waiting = [each for each in work if each.bundle.steps[0][0] in streams]
    assert len(waiting) == 4
    assert all(len(each.after & measures) == 2 for each in waiting), "both training seeds are measured first"
    packed = arrays(work, SlurmSettings(), lambda bundle: 10.0, lambda number: f"a{number}", {}, 1000)
    seen: set[str] = set()
    for array in packed:
        assert {name.partition("/")[0] for name in array.after} <= seen
        seen.add(array.name)
    kind_of = {array.name: array.kind for array in packed}
    assert any("measure" in {kind_of[name.partition("/")[0]] for name in a.after} for a in packed if a.kind == "sample")


def test_a_forecast_knows_the_networks(ran: Ran, tmp_path: Path) -> None:
    planned, store = matched(ran.plan, "cfg", "nag"), Store(str(tmp_path / "store"))
    speeds = Speeds(planned, store, Done(store))
    stream = next(cell.stream for cell in planned.cells if cell.arm == "cfg")
    assert speeds.task_s(stream) > 0


def test_what_cannot_be_measured(ran: Ran, tmp_path: Path) -> None:
    """Not yet there: as every missing input. Without a value, as the class changes nothing, or below 1: off, by 1."""
    planned, store = matched(ran.plan, "cfg", "nag"), Store(str(shutil.copytree(ran.store.root, tmp_path / "store")))
    stream = planned.tasks[next(cell.stream for cell in planned.cells if cell.arm == "cfg")]
    [guidance] = stream.params["guidance"]
    context = Context(store, tasks=dict(planned.tasks))
    number = measured.resolved(context, guidance)["fields"]["scale"]
    assert number == measured.mean_scale(scales(ran)["nag"])
    first = planned.tasks[measured.inputs_of(guidance)[0]]
    record = store.read_record(first.record_name)
    store.remove(first.record_name)
    with pytest.raises(MissingFile):
        measured.resolved(context, guidance)
    empty = {"value": None, "low": None, "high": None, "extrapolated": None, "reason": SAME}
    store.create_record(first.record_name, {**record, "values": {"effective_scale": empty}})
    others = [scale for scale in scales(ran)["nag"][1:]]
    assert measured.resolved(context, guidance)["fields"]["scale"] == measured.mean_scale([1.0, *others])
    assert measured.mean_scale([0.99, 1.0]) == 1.0
    typed = {"name": "cfg", "version": 1, "fields": {"scale": 1.5}}
    assert measured.resolved(context, typed) is typed


def test_several_measures_need_no_more_than_each(tmp_path: Path) -> None:
    """With the noise shift in the list, its tasks are those of a sweep that measures it alone; it observes no adaptive
    solver, the effective scale does.
    """
    meter = """\
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4, bins: 8}
    train: {steps: 4, batch: 16}
network: sit
"""
    text = changed(SWEEP, "sampler: {name: heun, steps: 3}\n", meter + "sampler: SAMPLER\n")
    shift, scale = "{name: noise_shift, estimator: meter, count: 30}", "{name: effective_scale, count: 30}"

    def digests(measure: str, sampler: str = "{name: heun, steps: 3}") -> set[str]:
        path = tmp_path / "sweep.yaml"
        path.write_text(changed(text, scale, measure, "SAMPLER", sampler))
        planned = plan(read_sweep(path))
        assert {one.name for one in planned.instances.values()} == (
            {"sit", "meter"} if "noise_shift" in measure and "heun" in sampler else {"sit"}
        )
        return {digest for digest, task in planned.tasks.items() if task.kind == "measure"}

    both = digests(f"[{shift}, {scale}]")
    assert both == digests(shift) | digests(scale)
    assert len(both) == 16
    assert digests(shift, "dopri5") == set()
    assert digests(f"[{shift}, {scale}]", "dopri5") == digests(scale, "dopri5") != set()
