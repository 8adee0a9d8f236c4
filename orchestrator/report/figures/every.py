"""All figures of a report, in order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from orchestrator.report.comparisons import Comparison
from orchestrator.report.estimates import chosen, distances, headline_metric
from orchestrator.report.figures import (
    calls,
    choice,
    classes,
    differences,
    effective_scale,
    precision_recall,
    samples,
    scale,
    shift,
)
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.drawing import Drawing, styled
from orchestrator.report.results import Results, shift_arrays
from orchestrator.store.store import Store


def draw_all(results: Results, comparisons: Sequence[Comparison], store: Store) -> tuple[list[Drawing], list[str]]:
    """The figures that these results have data for, and why some samples are not shown."""
    colours = colours_of(results)
    best = chosen(results)
    main = headline_metric(results)
    measured = distances(results) or ([main] if main else [])
    rows, notes = samples.rows(results, best, store)
    with styled():
        drawn = [
            *choice.choices(results, colours),
            differences.differences(results, comparisons, best, colours),
            *(scale.against_scale(results, metric, colours) for metric in measured),
            *(precision_recall.precision_recall(results, *plane, colours) for plane in results.planes),
            *(calls.against_calls(results, metric, colours) for metric in measured),
            effective_scale.effective_scale(results, colours),
            shift.noise_shift(results, colours),
            shift.parts(results, colours),
            shift.densities(shift.readings(results, partial(shift_arrays, store)), colours),
            samples.sample_grid(results, rows, notes, store, colours),
            *classes.drawings(results, best, store),
        ]
    return [drawing for drawing in drawn if drawing is not None], notes


def colours_of(results: Results) -> Colours:
    return Colours(tuple(arm.name for arm in results.plan.sweep.arms))
