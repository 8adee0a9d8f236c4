"""A run for each cell that is scored or failed, with its setting in words and as parameters that every cell has."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from nag import registry
from orchestrator.errors import CorruptFile
from orchestrator.identity import digest
from orchestrator.plan.model import StoredCell
from orchestrator.report.comparisons import Comparison, Group, compare, groups
from orchestrator.report.estimates import distances, headline_metric, panel_title
from orchestrator.report.formatting import short
from orchestrator.report.palette import arm_colours
from orchestrator.report.results import CellResult, Results
from orchestrator.report.verdict_table import params_text, tag_text
from orchestrator.report.verdicts import Verdict, verdicts
from orchestrator.spec.parameters import NFE, is_seed
from orchestrator.store.store import Store
from orchestrator.tracking.grid import GRID_VERSION, sample_png
from orchestrator.tracking.networks import data_set, model_of
from orchestrator.tracking.run import COLOUR, Artifact, DataSet, Run, milliseconds, points_of, short_key

if TYPE_CHECKING:
    from nag.guidance.scaled import Scaled

Late = tuple[str, float | None, float, int]


def cell_key(results: Results, cell: CellResult | StoredCell) -> str:
    """The key of a cell's run."""
    return digest([results.plan.sweep.name, cell.arm, cell.digest, dict(cell.params)])


@dataclass
class Rulings:
    """Comparisons and verdicts, once all cells of a whole sweep are done or failed; before, none."""

    results: Results
    store: Store | None
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        over = all(cell.complete or cell.reason is not None for cell in self.results.cells)
        if self.store is not None and over and self.results.plan.whole:
            self.comparisons = compare(self.results, self.store)
            self.verdicts = verdicts(self.results, self.comparisons)

    @cached_property
    def words(self) -> dict[int, str]:
        """The verdict on the setting of a cell, by the cell's id."""
        return {id(cell): tag_text(self.results, one) for one in self.verdicts for cell in one.group.cells}

    @cached_property
    def differences(self) -> dict[int, list[Late]]:
        """The difference from the baseline of a cell's setting, by the cell's id: in what decides, with intervals."""
        named = {headline_metric(self.results), *distances(self.results), *self.results.plan.sweep.compare.agree}
        every = {arm.name: groups(self.results, arm.name) for arm in self.results.plan.sweep.arms}
        by_setting = {(arm, digest(dict(group.params))): group for arm, gs in every.items() for group in gs}
        late: dict[int, list[Late]] = {}
        for row in self.comparisons:
            if row.metric in named:
                group = by_setting[row.arm, digest(dict(row.params))]
                baseline = by_setting[row.against, digest(dict(row.against_params))]
                at = last_finished(group, baseline)
                numbers = {"": row.difference, "_low": row.low, "_high": row.high}
                for cell in group.cells:
                    values = late.setdefault(id(cell), [])
                    values += [(f"{row.metric}_difference{end}", number, at, 0) for end, number in numbers.items()]
        return late


def last_finished(*compared: Group) -> float:
    """When the last cell of these groups finished, in seconds since the epoch."""
    return max(cell.finished for group in compared for cell in group.cells)


@dataclass
class CellRuns:
    """The runs of a sweep's cells. store: for the times of failures, sample grids, and comparisons."""

    results: Results
    store: Store | None
    rulings: Rulings
    grids: bool  # whether each has a grid of its first samples
    failed_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.results.plan
        self.planned = {cell_key(self.results, cell): cell for cell in plan.cells}
        self.colours = arm_colours(arm.name for arm in plan.sweep.arms)
        self.off = off_values(self.results)

    def every(self) -> list[Run]:
        return [self.run(cell) for cell in self.results.cells if cell.complete or cell.reason is not None]

    def run(self, cell: CellResult) -> Run:
        plan = self.results.plan
        key = cell_key(self.results, cell)
        planned = self.planned[key]
        end = cell.finished or self._failed_at(planned)
        references = self._references(planned)
        network = plan.tasks.get(plan.tasks[planned.stream].params["network"])
        grid = _grid(self.store, planned) if self.store is not None and self.grids else {}
        return Run(
            key=key,
            name=self.name(cell),
            status="FINISHED" if cell.complete else "FAILED",
            start_ms=milliseconds(end - (cell.seconds or 0)),
            end_ms=milliseconds(end),
            params=self.params(cell, planned),
            points=points_of(_measured(cell, end)),
            tags=self._tags(cell),
            artifacts=grid,
            verdict=self.rulings.words.get(id(cell)),
            differences=points_of(self.rulings.differences.get(id(cell), ())),
            uses=model_of(plan, network) if network else None,
            data=tuple(dict.fromkeys(references.values())),
            measured_on=references,
        )

    def name(self, cell: CellResult, seeds: bool = True) -> str:
        """`nag 2 seed=1`; without its seeds that of its setting."""
        values = setting(self.results, cell)
        keys = [key for key in self.results.plan.varying if key in values and (seeds or not is_seed(key))]
        varied = [(short_key(key), short(values[key])) for key in keys]
        return " ".join([cell.arm, *(v if key in ("sampler", cell.arm) else f"{key}={v}" for key, v in varied)])

    def params(self, cell: CellResult, planned: StoredCell) -> dict[str, str]:
        """Those of the cell, and what every cell has: its setting in words, N, and the scale of every guidance."""
        results, values = self.results, setting(self.results, cell)
        guidance = {key: value for key, value in values.items() if results.plan.sweep.is_guidance(key)}
        words = {
            "arm": cell.arm,
            "setting": params_text(guidance) or "no guidance",
            "sampling": _sampling(results, cell),
            "task": _task(results, cell),
            "N": str(planned.count),
        }
        return self.off | {key: str(value) for key, value in values.items()} | words

    def _tags(self, cell: CellResult) -> dict[str, str]:
        tags = {
            "sweep": self.results.plan.sweep.name,
            "arm": cell.arm,
            "sampler": str(cell.params.get("sampler")),
            "digest": cell.digest,
            "kind": "cell",
            COLOUR: self.colours[cell.arm],
        }
        return tags | ({"reason": cell.reason} if cell.reason is not None else {})

    def _references(self, planned: StoredCell) -> dict[str, DataSet]:
        """The reference images of each metric that has some."""
        plan = self.results.plan
        held: dict[str, DataSet] = {}
        for scored in planned.scores:
            reference = plan.tasks.get(plan.tasks[scored.task].params.get("reference", ""))
            data = data_set(plan, reference.params, "reference") if reference else None
            if data:
                held |= {value.name + scored.suffix: data for value in scored.metric.values}
        return held

    def _failed_at(self, cell: StoredCell) -> float:
        """When a task that a cell needs last failed, in seconds since the epoch; 0 if that is unknown."""
        known = self.failed_at

        def last(task: str) -> float:
            if task not in known and self.store is not None:
                names = self.store.list(f"attempts/{task}")
                with suppress(CorruptFile):
                    attempt = f"attempts/{task}/{names[-1]}" if names else ""
                    known[task] = self.store.read_record(attempt, repair=False)["time"] if names else 0.0
            return max([known.setdefault(task, 0.0), *map(last, self.results.plan.tasks[task].inputs)])

        return max(map(last, [scored.task for scored in cell.scores] or [cell.stream]))


def setting(results: Results, cell: CellResult) -> dict[str, Any]:
    """A cell's parameters, with the measured scale where it matches another arm's."""
    if cell.matched is None:
        return dict(cell.params)
    is_guidance = results.plan.sweep.is_guidance
    matched = {key: cell.matched for key, value in cell.params.items() if is_guidance(key) and isinstance(value, str)}
    return {**cell.params, **matched}


def scale_keys(results: Results) -> list[str]:
    """The scales of the sweep's guidance, such as `nag.scale`; of the whole sweep even if some arms are asked for."""
    plan = results.plan
    keys = dict.fromkeys([*plan.varying, *(key for cell in results.cells for key in cell.params)])
    known = {*registry.METHODS["guidance"], *plan.sweep.guidance}
    return [key for key in keys if key.endswith(".scale") and key.partition(".")[0] in known]


def off_values(results: Results) -> dict[str, str]:
    """The value at which each guidance of nagbench is off; with it no run lacks an axis of a chart."""
    known = {key: key.partition(".")[0] for key in scale_keys(results)}
    return {
        key: short(cast("type[Scaled]", registry.find("guidance", name)).OFF)
        for key, name in known.items()
        if name in registry.METHODS["guidance"]
    }


def _sampling(results: Results, cell: CellResult) -> str:
    """`euler, 10 steps`: the sampler with its steps, and its other fields that vary in the sweep."""
    always = ("sampler", "sampler.steps", NFE)
    fields = {key: v for key, v in cell.params.items() if key in always or key in results.plan.varying}
    sampler: dict[str, object] = {key: value for key, value in fields.items() if key.startswith("sampler")}
    return panel_title(sampler, [sampler, {}])


def _task(results: Results, cell: CellResult) -> str:
    """The network, and what else varies outside guidance, sampler and seeds, such as the data set."""
    sweep = results.plan.sweep
    varied = [
        short(value)
        for key, value in cell.params.items()
        if key in results.plan.varying
        and not (is_seed(key) or sweep.is_guidance(key) or key.startswith("sampler") or key == "network")
    ]
    return ", ".join([str(cell.params["network"]), *varied])


def _measured(cell: CellResult, end: float) -> list[tuple[str, float | None, float, int]]:
    """Metric, value, time, step: scores, cost, and the curves over the noise level (step 1000 t)."""
    values: dict[str, float | None] = {"NFE": cell.network_calls, "worker_seconds": cell.seconds}
    for name, entry in cell.scores.items():
        score = entry["score"]
        values |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
    points: list[tuple[str, float | None, float, int]] = [(name, value, end, 0) for name, value in values.items()]
    shift = cell.shift or {"t": (), "delta": ()}
    points += [("noise_shift", d, end, round(1000 * t)) for t, d in zip(shift["t"], shift["delta"], strict=True)]
    curve = cell.effective_scale or {"t": (), "scale": ()}
    by_level = zip(curve["t"], curve["scale"], strict=True)
    points += [("effective_scale_by_level", scale, end, round(1000 * t)) for t, scale in by_level]
    return points


def _grid(store: Store, cell: StoredCell) -> dict[str, Artifact]:
    name = digest([GRID_VERSION, cell.stream, cell.count])
    return {"samples.png": Artifact(name, partial(sample_png, store, cell))}
