"""Noise shift delta(t): how far above the nominal level g_phi reads during sampling; and densities of its readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.report.estimates import chosen, panel_of, panel_title, uses_nag
from orchestrator.report.figures.colours import INK, MUTED, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.levels import Line, drawn, mean_by_level, panels_by_sampler, setting
from orchestrator.report.figures.panels import Name, Names, panels
from orchestrator.report.formatting import listed, plural
from orchestrator.report.results import Results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


def noise_shift(results: Results, colours: Colours) -> Drawing | None:
    """delta(t): one panel per sampler, one line per arm."""
    every = panels_by_sampler(results, lambda cell: cell.shift, "delta")
    if every is None:
        return None

    def bias(lines: Sequence[Line]) -> np.ndarray:
        return mean_by_level([cell.shift for cell in lines[0].cells if cell.shift], "bias")

    def behind(axes: Axes, names: Names, lines: Sequence[Line]) -> list[Name]:
        t, error = _levels(lines[0]), bias(lines)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        axes.plot(t, error, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
        for line in lines:
            mode = mean_by_level([cell.shift["mode"] for cell in line.cells if cell.shift], "delta")
            axes.plot(_levels(line), mode, color=colours.mark(line.group.arm), linewidth=0.9, linestyle=(0, (1, 1)))
        names.avoid(t.tolist(), error.tolist())
        anchors = [(float(t[k]), float(error[k])) for k in (0, min(1, len(t) - 1), -1)]
        return [Name("g_phi's error", MUTED, anchors)]

    errors = [float(value) for line in every.lines for value in bias([line])]
    figure = drawn(results, every, colours, "noise shift δ(t)", 0.0, behind, errors)
    caption = every.caption(
        "Noise shift δ(t): the level that the estimator g_phi reads in sampled states, less what it reads in true "
        "states of the same nominal level and classes, in units of t. Above zero, states look too noisy.",
        "Grey: the estimator's own error on true states, which is already subtracted. Dotted: the shift by the mode of "
        "the posterior, in place of its mean.",
    )
    return Drawing("noise_shift", "shift", "Noise shift along the sampling", caption, figure, tall=True)


def parts(results: Results, colours: Colours) -> Drawing | None:
    """What of delta(t) is the network's and what the discretisation's; None unless it was measured with finer steps."""
    every = panels_by_sampler(results, lambda cell: (cell.shift or {}).get("finer"), "delta")
    if every is None:
        return None

    def added(line: Line) -> np.ndarray:
        return mean_by_level([cell.shift["finer"] for cell in line.cells if cell.shift], "discretisation")

    def behind(axes: Axes, names: Names, lines: Sequence[Line]) -> list[Name]:
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for line in lines:
            mark = colours.mark(line.group.arm)
            axes.plot(_levels(line), added(line), color=mark, linewidth=1.0, linestyle=(0, (1, 1)))
        return []

    values = [float(value) for line in every.lines for value in added(line) if math.isfinite(value)]
    figure = drawn(results, every, colours, "part of the noise shift δ(t)", 0.0, behind, values)
    shifts = [cell.shift for line in every.lines for cell in line.cells if cell.shift]
    times = listed([str(times) for times in sorted({one["finer"]["times"] for one in shifts})])
    caption = every.caption(
        f"Lines: the part of the noise shift that is left with {times} times the steps, the network's.",
        "Dotted: what the discretisation adds, the rest.",
    )
    return Drawing("noise_shift_parts", "shift", "Network and discretisation", caption, figure, tall=True)


def _levels(line: Line) -> np.ndarray:
    """All measured levels, also those where the estimator does not respond."""
    import numpy as np

    return np.asarray(next(cell.shift["t"] for cell in line.cells if cell.shift), dtype=float)


LEVELS = (0.75, 0.5, 0.25, 0.1)  # nominal; the nearest that were measured are shown
ROWS = 3
ROW_NAME = 14  # characters of a row's name; longer ones take two lines
GRID_POINTS = 160


@dataclass(frozen=True)
class Readings:
    """The levels that g_phi reads in the states of one cell. t: (K,), sampled and true: (K, M)."""

    arm: str
    name: str
    panel: str  # its sampler
    t: np.ndarray
    sampled: np.ndarray
    true: np.ndarray


def densities(readings: Sequence[Readings], colours: Colours) -> Drawing | None:
    """Density of g_phi's readings on true and on sampled states: one row per arm, one column per level."""
    import numpy as np

    if not readings:
        return None
    readings = [one for one in readings if np.array_equal(one.t, readings[0].t)][:ROWS]  # a column is one level
    t = readings[0].t
    levels = list(dict.fromkeys(int(np.abs(t - level).argmin()) for level in LEVELS))
    figure, all_axes = panels(
        len(levels) * len(readings), 0.9, columns=len(levels), wide=True, share_x=False, share_y=False, gap_y=0.3
    )
    for place, axes in enumerate(all_axes):
        row, column = divmod(place, len(levels))
        reading, k = readings[row], levels[column]
        mark = colours.mark(reading.arm)
        both = np.concatenate([other for one in readings for other in (one.sampled[k], one.true[k])])
        low, high = (float(value) for value in np.quantile(both, (0.002, 0.998)))
        pad = 0.12 * (high - low) or 0.01
        grid = np.linspace(low - pad, high + pad, GRID_POINTS)
        true, sampled = kernel_density(reading.true[k], grid), kernel_density(reading.sampled[k], grid)
        axes.fill_between(grid, true, color=MUTED, alpha=0.3, linewidth=0)
        axes.plot(grid, sampled, color=mark, linewidth=1.5)
        axes.axvline(float(t[k]), color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set(xlim=(grid[0], grid[-1]), ylim=(0, 1.12 * float(max(true.max(), sampled.max()))), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelleft=False)
        if row == 0:
            axes.set_title(f"t = {t[k]:.2f}")
        if column == 0:
            name = reading.name if len(reading.name) <= ROW_NAME else reading.name.replace(" ", "\n", 1)
            axes.set_ylabel(name, color=colours.text(reading.arm))
        if row < len(readings) - 1:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("level read by g_phi")
    names = listed([f"{reading.name} ({reading.panel})" if reading.panel else reading.name for reading in readings])
    caption = (
        f"Density of the levels that g_phi reads: {names}; first training seed, "
        f"{plural(readings[0].true.shape[1], 'sample')}. Grey in true states, coloured in sampled states of the same "
        "nominal level t (dotted). A column shares its x axis; heights are not comparable between panels."
    )
    return Drawing("noise_shift_density", "shift", "What g_phi reads", caption, figure, tall=True)


def kernel_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernels with Silverman's bandwidth, 0.9 min(std, IQR / 1.34) n^(-1/5)."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    spread = [float(x.std()), float(np.subtract(*np.quantile(x, (0.75, 0.25)))) / 1.34]
    width = 0.9 * min([s for s in spread if s > 0], default=0.0) * len(x) ** -0.2
    width = width or float(grid[-1] - grid[0]) / len(grid)
    kernels = np.exp(-0.5 * ((grid[:, None] - x[None, :]) / width) ** 2)
    return kernels.sum(axis=1) / (len(x) * width * math.sqrt(2 * math.pi))


def readings(results: Results, arrays: Any) -> list[Readings]:
    """Readings of the best cells: the baseline's, then those of arms with NAG, then the others.

    arrays(task) -> {"t", "sampled", "true"}, or None.
    """
    measured = []
    best_of = chosen(results)
    order = sorted(best_of, key=lambda arm: (arm != results.plan.sweep.arms[0].name, not uses_nag(best_of[arm])))
    for arm in order:
        group = best_of[arm]
        cell = next((cell for cell in group.cells if cell.shift), None)
        known = arrays(cell.shift["task"]) if cell and cell.shift else None
        if known is not None:
            panel = panel_of(results, group)
            measured.append(
                Readings(
                    arm, setting(results, group), panel_title(panel, []), known["t"], known["sampled"], known["true"]
                )
            )
    return measured
