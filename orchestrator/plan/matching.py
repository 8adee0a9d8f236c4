"""Cells of arms that match another arm: their CFG has the effective scale that is measured there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nag.effective_scale import EffectiveScale
from orchestrator.errors import BadInput
from orchestrator.plan import cells as tasks_of
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import Candidate, PlannedCell, Race
from orchestrator.spec.parameters import is_seed

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, Sweep


def matched(
    builder: TaskBuilder, sweep: Sweep, cells: Sequence[Cell], known: Iterable[PlannedCell], races: Sequence[Race]
) -> tuple[list[PlannedCell], list[Race]]:
    """The matched `cells` with their tasks, and the races of those that match a tuned arm: they follow its race.

    known: the other cells of the plan. Raises BadInput where an arm has several settings, so that none is the one.
    """
    plain, following = list[PlannedCell](), list[Race]()
    for own in _groups(cells):
        arm = own[0].matches
        number = next(
            (n for n, race in enumerate(races) if race.arm == arm and _agree(sweep, own[0], race.params)), None
        )
        if number is not None:
            following.append(_follower(builder, sweep, own, races[number], number))
            continue
        theirs = [cell for cell in known if cell.arm == arm and _agree(sweep, own[0], cell.params)]
        settings = {tuple((k, v) for k, v in cell.params.items() if not is_seed(k)) for cell in theirs}
        if len(settings) != 1:
            raise BadInput(
                f"{sweep.path}: arm {own[0].arm} matches {arm}, which has {len(settings)} settings here. Match an arm "
                "of one setting, or of tuned values."
            )
        scales = [_scale(builder, sweep, cell) for cell in theirs]
        plain += [tasks_of.planned(builder, sweep, cell, scales) for cell in own]
    return plain, following


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that differ by their seeds only: all have one scale."""
    groups: dict[tuple[str, tuple[tuple[str, object], ...]], list[Cell]] = {}
    for cell in cells:
        params = tuple((key, value) for key, value in cell.params.items() if not is_seed(key))
        groups.setdefault((cell.arm, params), []).append(cell)
    return list(groups.values())


def _agree(sweep: Sweep, cell: Cell, params: object) -> bool:
    """Whether a cell and others have the same value on each axis outside arms that both have."""
    assert isinstance(params, dict)
    shared = (key for key in sweep.shared_axes if not is_seed(key) and key in cell.params and key in params)
    return all(cell.params[key] == params[key] for key in shared)


def _follower(builder: TaskBuilder, sweep: Sweep, own: Sequence[Cell], race: Race, number: int) -> Race:
    candidates = []
    for candidate in race.candidates:
        theirs = [cell for cell in candidate.cells if isinstance(cell, PlannedCell)]
        scales = [_scale(builder, sweep, cell) for cell in theirs]
        cells = tuple(tasks_of.planned(builder, sweep, cell, scales) for cell in own)
        candidates.append(Candidate(place=candidate.place, params={}, streams=(), extracts=(), cells=cells))
    return Race(
        arm=own[0].arm,
        params={key: value for key, value in own[0].params.items() if not is_seed(key)},
        metric=race.metric,
        axes=race.axes,
        count=race.count,
        block=race.block,
        limit=race.limit,
        candidates=tuple(candidates),
        steps=(),
        follows=number,
    )


def _scale(builder: TaskBuilder, sweep: Sweep, cell: PlannedCell) -> str:
    """The task that measures a cell's effective scale."""
    measure = next((each for each in sweep.measures if isinstance(each, EffectiveScale)), EffectiveScale())
    return tasks_of.measured(builder, sweep, measure, cell.cell, cell.stream).task
