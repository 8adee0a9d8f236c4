"""Noise shift delta(t): how far above the nominal level g_phi reads during sampling; and densities of its readings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import best, chosen, headline_metric, panel_of, panel_title, uses_nag
from orchestrator.report.figures.colours import INK, MUTED, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import Name, Names, axis_limits, axis_titles, panels
from orchestrator.report.formatting import SAMPLING_NOISE, count_text, label, listed, over_seeds_text, plural
from orchestrator.report.results import CellResult, Results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

ALONE = (6.4, 3.0)  # inches of a single panel
LINES_AT_MOST = 6  # in a panel; with more settings than this, only the best of each arm
BAND = 0.14


@dataclass(frozen=True)
class Shift:
    """delta(t) of a group: the mean over its training seeds, with an interval at each level."""

    group: Group
    t: np.ndarray
    delta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bias: np.ndarray
    seeds: int
    counts: frozenset[int]
    cells: tuple[CellResult, ...]


def shift_of(group: Group) -> Shift | None:
    """The shift over a group's measured cells; None if there are none, or if their levels differ."""
    import numpy as np

    from nag.intervals import t_interval

    measured = tuple(cell for cell in group.cells if cell.shift)
    if not measured:
        return None
    shifts: list[Mapping[str, Any]] = [cell.shift for cell in measured if cell.shift]
    if any(shift["t"] != shifts[0]["t"] for shift in shifts):
        return None

    def mean(key: str, cells: Sequence[CellResult]) -> np.ndarray:
        return np.mean([np.asarray(cell.shift[key], dtype=float) for cell in cells if cell.shift], axis=0)

    seeds = [[cell for cell in cells if cell.shift] for cells in group.by_training().values()]
    seeds = [cells for cells in seeds if cells]
    each = np.stack([mean("delta", cells) for cells in seeds])
    low, high = mean("low", measured), mean("high", measured)
    if len(seeds) > 1:
        bounds = [t_interval(column)[1:] for column in each.T.tolist()]
        low, high = (np.array([bound[side] for bound in bounds], dtype=float) for side in (0, 1))
    return Shift(
        group,
        np.asarray(shifts[0]["t"], dtype=float),
        each.mean(axis=0),
        low,
        high,
        mean("bias", measured),
        len(seeds),
        frozenset(shift["count"] for shift in shifts),
        measured,
    )


def noise_shift(results: Results, colours: Colours) -> Drawing | None:
    """delta(t): one panel per sampler, one line per arm."""
    by_panel: dict[tuple[Any, ...], tuple[dict[str, Any], list[Shift]]] = {}
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            if shift := shift_of(group):
                params = panel_of(results, group)
                by_panel.setdefault(tuple(params.items()), (params, []))[1].append(shift)
    if not by_panel:
        return None
    shown = [(params, _few(results, shifts)) for params, shifts in by_panel.values()]
    every = [shift for _, shifts in shown for shift in shifts]
    figure, all_axes = panels(len(shown), ALONE if len(shown) == 1 else None)
    all_axes[0].set(
        xlim=(1.02, -0.3),
        ylim=axis_limits(
            [float(value) for shift in every for value in (*shift.delta, *shift.bias, 0.0)],
            [float(value) for shift in every for value in (*shift.low, *shift.high)],
        ),
    )
    all_axes[0].set_xticks([1, 0.8, 0.6, 0.4, 0.2, 0])
    for axes, (params, shifts) in zip(all_axes, shown, strict=True):
        axes.set_title(panel_title(params, [other for other, _ in shown]))
        _panel(axes, results, shifts, colours)
    axis_titles(all_axes, "nominal noise level t", "noise shift δ(t)")
    seeds = {shift.seeds for shift in every}
    counts = {count for shift in every for count in shift.counts}
    band = over_seeds_text(seeds) if max(seeds) > 1 else SAMPLING_NOISE
    caption = (
        "Noise shift δ(t): the level that the estimator g_phi reads in sampled states, less what it reads in true "
        "states of the same nominal level. Above zero, states look noisier than they should. Sampling runs from "
        f"left to right. {count_text(counts)} samples a cell. "
        f"Bands: {band}. Dotted: the estimator's own error on true states, which is already subtracted."
    )
    left_out = sum(len(shifts) for _, shifts in by_panel.values()) > len(every)
    several = any(len(shifts) > len({shift.group.arm for shift in shifts}) for _, shifts in shown)
    caption += " Dashed: settings of an arm that are not its best." if several else ""
    caption += " Only the best setting of each arm is shown." if left_out else ""
    return Drawing("noise_shift", "shift", "Noise shift along the sampling", caption, figure, tall=True)


def _few(results: Results, shifts: list[Shift]) -> list[Shift]:
    """All settings of a panel if they are few, else the best of each arm. An arm's best comes first."""
    metric = headline_metric(results)
    kept = []
    for arm in dict.fromkeys(shift.group.arm for shift in shifts):
        own = [shift for shift in shifts if shift.group.arm == arm]
        top = best(results, [shift.group for shift in own], metric) if metric else None
        own.sort(key=lambda shift: shift.group is not top)
        kept += own if len(shifts) <= LINES_AT_MOST else own[:1]
    return kept


def _panel(axes: Axes, results: Results, shifts: Sequence[Shift], colours: Colours) -> None:
    names, wanted = Names(axes), []
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    names.avoid([1.0, 0.0], [0.0, 0.0])
    bias = shifts[0]
    axes.plot(bias.t, bias.bias, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    names.avoid(bias.t.tolist(), bias.bias.tolist())
    drawn: dict[str, int] = {}
    for shift in shifts:
        arm = shift.group.arm
        mark, turn = colours.mark(arm), drawn.get(arm, 0)
        drawn[arm] = turn + 1
        axes.fill_between(shift.t, shift.low, shift.high, color=mark, alpha=BAND, linewidth=0)
        axes.plot(
            shift.t,
            shift.delta,
            color=mark,
            linewidth=1.6,
            linestyle=("-", (0, (5, 2)), (0, (2, 1.5)))[turn % 3],
            marker=colours.marker(arm),
            markersize=3.2,
            markeredgewidth=0,
            zorder=3,
        )
        names.avoid(shift.t.tolist(), shift.delta.tolist())
        middle = int(shift.delta.argmax())
        anchors = [(float(shift.t[k]), float(shift.delta[k])) for k in (-1, middle, len(shift.t) // 2)]
        wanted.append(Name(_name(results, shift, shifts), colours.text(arm), anchors))
    wanted.append(
        Name(
            "g_phi's error", MUTED, [(float(bias.t[k]), float(bias.bias[k])) for k in (0, min(1, len(bias.t) - 1), -1)]
        )
    )
    names.place(wanted)


def _name(results: Results, shift: Shift, shifts: Sequence[Shift]) -> str:
    """The arm, with its setting if the panel has several. The panel's title names the sampler."""
    arm = shift.group.arm
    own = [other.group for other in shifts if other.group.arm == arm]
    if len(own) == 1 and len(groups(results, arm)) == 1:
        return arm
    return _setting(results, shift.group)


def _setting(results: Results, group: Group) -> str:
    """A group's label without the parameters in its panel's title."""
    mine = {k: v for k, v in group.params.items() if k not in panel_of(results, group)}
    return label(results, Group(group.arm, mine, group.cells))


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
        len(levels) * len(readings), (1.55, 1.0), columns=len(levels), share_x=False, share_y=False, gap_y=0.3
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
                    arm, _setting(results, group), panel_title(panel, []), known["t"], known["sampled"], known["true"]
                )
            )
    return measured
