"""Distances against guidance scale: a run for each arm, whose steps are its scales, so that MLflow draws a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.identity import digest
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import distances, headline_metric
from orchestrator.report.formatting import short
from orchestrator.report.palette import arm_colours
from orchestrator.report.results import Results
from orchestrator.tracking.cell_runs import last_finished, scale_keys, setting
from orchestrator.tracking.run import COLOUR, Run, milliseconds, points_of

SCALE = "scale"  # the metric on the x axis
Line = list[tuple[float | None, Group]]


def curve_metrics(results: Results) -> list[str]:
    """The metrics that are drawn against the scale."""
    first = headline_metric(results)
    return list(dict.fromkeys([*([first] if first else []), *distances(results)]))


def curve_runs(results: Results) -> list[Run]:
    """A run for each arm, or for each combination of its other factors. Its key holds its values, because MLflow never
    forgets a point: a changed curve is a new run. Call once all cells are done.
    """
    colours = arm_colours(arm.name for arm in results.plan.sweep.arms)
    lines = [(arm.name, *each) for arm in results.plan.sweep.arms for each in _lines(results, arm.name)]
    scales = [scale for _, _, line in lines for scale, _ in line if scale is not None] or [0.0]
    ends = sorted({min(scales), max(scales)})
    return [_run(results, arm, words, _drawn(line, ends), colours[arm]) for arm, words, line in lines]


def _drawn(line: Line, ends: list[float]) -> list[tuple[float, Group]]:
    """The points of a curve; an arm without a scale is a level line."""
    return [(at, group) for scale, group in line for at in (ends if scale is None else [scale])]


def _run(results: Results, arm: str, words: str, line: list[tuple[float, Group]], colour: str) -> Run:
    values: list[tuple[str, float | None, float, int]] = []
    for step, (scale, group) in enumerate(line):
        at = last_finished(group)
        values += [(SCALE, scale, at, step), *((name, group.mean(name), at, step) for name in curve_metrics(results))]
    points = points_of(values)
    ends = [milliseconds(last_finished(group)) for _, group in line]
    sweep = results.plan.sweep.name
    name = " ".join(filter(None, [arm, words]))
    return Run(
        key=digest([sweep, "curve", name, [list(point) for point in points]]),
        name=f"{name} by scale",
        status="FINISHED",
        start_ms=min(ends),
        end_ms=max(ends),
        params={"arm": arm, "setting": words or arm},
        points=points,
        tags={"sweep": sweep, "arm": arm, "kind": "curve", COLOUR: colour},
    )


def _lines(results: Results, arm: str) -> list[tuple[str, Line]]:
    """The curves of an arm, each with the words that tell it from the others. A scale is None if the arm has none."""
    every = [(group, setting(results, group.cells[0])) for group in groups(results, arm)]
    axis = _axis([values for _, values in every], scale_keys(results))
    keys = dict.fromkeys(key for group, _ in every for key in group.params if key != axis)
    varied = [key for key in keys if len({str(values.get(key)) for _, values in every}) > 1]
    lines: dict[str, Line] = {}
    for group, values in every:
        words = " ".join(short(values[key]) for key in varied if key in values)
        scale = values.get(axis) if axis else None
        lines.setdefault(words, []).append((float(scale) if isinstance(scale, int | float) else None, group))
    return [(words, sorted(line, key=lambda point: point[0] or 0.0)) for words, line in lines.items()]


def _axis(settings: list[dict[str, Any]], scales: list[str]) -> str | None:
    """The scale with the most values in an arm."""
    counts: Mapping[str, int] = {key: len({each[key] for each in settings if key in each}) for key in scales}
    most = max(counts.values(), default=0)
    return next((key for key, count in counts.items() if count == most), None) if most else None
