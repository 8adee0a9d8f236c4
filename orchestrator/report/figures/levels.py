"""What is measured by noise level, as lines: one panel per sampler, one line per setting, with bands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import best, headline_metric, panel_of, panel_title
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.panels import Name, Names, axis_limits, axis_titles, panels
from orchestrator.report.formatting import SAMPLING_NOISE, count_text, label, over_seeds_text
from orchestrator.report.results import CellResult, Results

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALONE = 2.4  # inches: the height of a single panel, which is as wide as a page
LINES_AT_MOST = 6  # in a panel; with more settings than this, only the best of each arm
BAND = 0.14

ByLevel = Callable[[CellResult], "Mapping[str, Any] | None"]  # what a cell's record has by level, if it is measured


@dataclass(frozen=True)
class Line:
    """A value by level of a group: the mean over its training seeds, with an interval at each level."""

    group: Group
    t: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    counts: frozenset[int]
    cells: tuple[CellResult, ...]


def line_of(group: Group, by_level: ByLevel, key: str) -> Line | None:
    """The line over a group's measured cells, at the levels where all have a value; None if there is no such level, or
    if levels differ between cells. key: of the values.
    """
    import numpy as np

    from nag.intervals import t_interval

    measured = tuple(cell for cell in group.cells if by_level(cell))
    known = [one for cell in measured if (one := by_level(cell))]
    if not known or any(one["t"] != known[0]["t"] for one in known):
        return None
    by_training = group.by_training().values()
    seeds = [kept for cells in by_training if (kept := [one for cell in cells if (one := by_level(cell))])]
    each = np.stack([mean_by_level(cells, key) for cells in seeds])
    finite = np.isfinite(each).all(axis=0)
    if not finite.any():
        return None
    low, high = mean_by_level(known, "low")[finite], mean_by_level(known, "high")[finite]
    if len(seeds) > 1:
        bounds = [t_interval(column)[1:] for column in each[:, finite].T.tolist()]
        low, high = (np.array([bound[side] for bound in bounds], dtype=float) for side in (0, 1))
    t, counts = np.asarray(known[0]["t"], dtype=float)[finite], frozenset(one["count"] for one in known)
    return Line(group, t, each.mean(axis=0)[finite], low, high, len(seeds), counts, measured)


def mean_by_level(known: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Mean over cells of one list of their records; NaN at levels without a value."""
    import numpy as np

    return np.mean([np.asarray(one[key], dtype=float) for one in known], axis=0)


@dataclass(frozen=True)
class Panels:
    """The lines of each panel, by its parameters. left_out: whether only the best setting of each arm is among them."""

    shown: list[tuple[dict[str, Any], list[Line]]]
    left_out: bool

    @property
    def lines(self) -> list[Line]:
        return [line for _, lines in self.shown for line in lines]

    def caption(self, what: str, after: str = "") -> str:
        """`what` is drawn, then what all figures by level say of samples, bands and settings, then `after`."""
        seeds = {line.seeds for line in self.lines}
        counts = {count for line in self.lines for count in line.counts}
        band = over_seeds_text(seeds) if max(seeds) > 1 else SAMPLING_NOISE
        several = any(len(lines) > len({line.group.arm for line in lines}) for _, lines in self.shown)
        words = [f"{what} Sampling runs from left to right. {count_text(counts)} samples a cell. Bands: {band}.", after]
        words.append("Dashed: settings of an arm that are not its best." if several else "")
        words.append("Only the best setting of each arm is shown." if self.left_out else "")
        return " ".join(filter(None, words))


def panels_by_sampler(results: Results, by_level: ByLevel, key: str) -> Panels | None:
    """The lines of all settings that are measured, or of the best of each arm; None if there are none."""
    by_panel: dict[tuple[Any, ...], tuple[dict[str, Any], list[Line]]] = {}
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            if line := line_of(group, by_level, key):
                params = panel_of(results, group)
                by_panel.setdefault(tuple(params.items()), (params, []))[1].append(line)
    if not by_panel:
        return None
    shown = [(params, _few(results, lines)) for params, lines in by_panel.values()]
    left_out = sum(len(lines) for _, lines in by_panel.values()) > sum(len(lines) for _, lines in shown)
    return Panels(shown, left_out)


def _few(results: Results, lines: list[Line]) -> list[Line]:
    """All settings of a panel if they are few, else the best of each arm. An arm's best comes first."""
    metric = headline_metric(results)
    kept = []
    for arm in dict.fromkeys(line.group.arm for line in lines):
        own = [line for line in lines if line.group.arm == arm]
        top = best(results, [line.group for line in own], metric) if metric else None
        own.sort(key=lambda line: line.group is not top)
        kept += own if len(lines) <= LINES_AT_MOST else own[:1]
    return kept


def drawn(
    results: Results,
    every: Panels,
    colours: Colours,
    title: str,
    zero: float,
    before: Callable[[Axes, Names, Sequence[Line]], Sequence[Name]],
    values: Sequence[float] = (),
) -> Figure:
    """The figure. zero: the value of no effect. values: others that its axis must include. before: draws what is behind
    the lines of a panel, and returns names for it.
    """
    figure, all_axes = panels(len(every.shown), ALONE if len(every.shown) == 1 else None, wide=True)
    all_axes[0].set(
        xlim=(1.02, -0.3),
        ylim=axis_limits(
            [float(value) for line in every.lines for value in line.value] + [*values, zero],
            [float(value) for line in every.lines for value in (*line.low, *line.high)],
        ),
    )
    all_axes[0].set_xticks([1, 0.8, 0.6, 0.4, 0.2, 0])
    for axes, (params, lines) in zip(all_axes, every.shown, strict=True):
        axes.set_title(panel_title(params, [other for other, _ in every.shown]))
        names = Names(axes)
        names.avoid([1.0, 0.0], [zero, zero])
        behind = before(axes, names, lines)
        names.place([*_lines(axes, names, results, lines, colours), *behind])
    axis_titles(all_axes, "nominal noise level t", title)
    return figure


def _lines(axes: Axes, names: Names, results: Results, lines: Sequence[Line], colours: Colours) -> list[Name]:
    """Draw the lines of a panel; their names."""
    wanted = []
    turns: dict[str, int] = {}
    for line in lines:
        arm = line.group.arm
        mark, turn = colours.mark(arm), turns.get(arm, 0)
        turns[arm] = turn + 1
        axes.fill_between(line.t, line.low, line.high, color=mark, alpha=BAND, linewidth=0)
        axes.plot(
            line.t,
            line.value,
            color=mark,
            linewidth=1.6,
            linestyle=("-", (0, (5, 2)), (0, (2, 1.5)))[turn % 3],
            marker=colours.marker(arm),
            markersize=3.2,
            markeredgewidth=0,
            zorder=3,
        )
        names.avoid(line.t.tolist(), line.value.tolist())
        middle = int(line.value.argmax())
        anchors = [(float(line.t[k]), float(line.value[k])) for k in (-1, middle, len(line.t) // 2)]
        wanted.append(Name(_name(results, line, lines), colours.text(arm), anchors))
    return wanted


def _name(results: Results, line: Line, lines: Sequence[Line]) -> str:
    """The arm, with its setting if the panel has several. The panel's title names the sampler."""
    arm = line.group.arm
    own = [other.group for other in lines if other.group.arm == arm]
    if len(own) == 1 and len(groups(results, arm)) == 1:
        return arm
    return setting(results, line.group)


def setting(results: Results, group: Group) -> str:
    """A group's label without the parameters in its panel's title."""
    mine = {k: v for k, v in group.params.items() if k not in panel_of(results, group)}
    return label(results, Group(group.arm, mine, group.cells))
