"""Plan: the tasks of a sweep, and which of them each cell needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput, unknown
from orchestrator.identity import canonical, checksum

if TYPE_CHECKING:
    from orchestrator.identity import Outside
    from orchestrator.spec.model import Cell, Network, Sweep
    from orchestrator.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """One metric of a cell: the names under which its values are reported, and the task that makes them."""

    metric: Any
    suffix: str  # "" for the first extractor, else "_" and its name
    task: str
    extractor: str = ""  # its name; "" for a measurement


@dataclass(frozen=True)
class PlannedCell:
    cell: Cell
    digest: str
    stream: str
    blocks: int
    extracts: tuple[str, ...]
    scores: tuple[Scored, ...]


@dataclass(frozen=True)
class Plan:
    sweep: Sweep
    tasks: dict[str, Task]  # by digest, inputs before what needs them
    blocks: Mapping[str, int]  # how many blocks of each sample and extract task are wanted
    cells: tuple[PlannedCell, ...]
    floors: tuple[tuple[str, tuple[Scored, ...]], ...]  # per reference task: the held-out images scored like a cell
    # by content and whether it is copied, what tasks read from outside of the store
    outside: Mapping[tuple[str, bool], Outside] = field(default_factory=dict)

    @cached_property
    def goals(self) -> frozenset[str]:
        """What the sweep is for: its scores, or its samples where it scores nothing."""
        scores = {scored.task for planned in self.cells for scored in planned.scores}
        floors = {scored.task for _, floor in self.floors for scored in floor}
        return frozenset(scores | floors or {planned.stream for planned in self.cells})

    @property
    def arms(self) -> dict[str, set[str]]:
        """The streams of each arm."""
        found: dict[str, set[str]] = {}
        for planned in self.cells:
            found.setdefault(planned.cell.arm, set()).add(planned.stream)
        return found

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Those of the cells and of the measurement, with what each was made from, all once. A plan that was read from
        a store has none: its tasks say it all.
        """
        roots = [n for planned in self.cells for n in (planned.cell.network, *planned.cell.references.values()) if n]
        roots += [self.sweep.estimator] if self.sweep.estimator else []
        return tuple({id(n): n for root in roots for n in root.lineage}.values())

    def document(self) -> dict[str, Any]:
        """The plan as the store keeps it: what those who do its tasks must know, and the sweep as it was written."""
        return {
            "sweep": self.sweep.name,
            "text": self.sweep.text,
            "keep": self.sweep.keep,
            "tasks": {digest: task.definition() for digest, task in self.tasks.items()},
            "blocks": dict(self.blocks),
            "goals": sorted(self.goals),
            "arms": {arm: sorted(found) for arm, found in self.arms.items()},
            "places": {found.content: found.place for found in self.outside.values() if not found.copied},
        }


def plan_checksum(plan: Plan) -> str:
    """The name of a plan in stores: its content decides it."""
    return checksum(canonical(plan.document()).encode())


def find_cell(plan: Plan, prefix: str) -> PlannedCell:
    """The cell whose digest starts so. Raises BadInput, naming the cells there are, if that is none or several."""
    found = {planned.digest: planned for planned in plan.cells if planned.digest.startswith(prefix)}
    if len(found) == 1:
        return next(iter(found.values()))
    known = [f"{p.digest[:12]} ({p.cell.arm})" for p in (found.values() or plan.cells)]
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    problem = f"{len(found)} cells begin with {prefix!r}" if found else f"no cell begins with {prefix!r}"
    raise BadInput(f"{problem}. {'They are' if found else 'Known'}: {shown}.")


def needs_only(plan: Plan, arms: list[str] | None, cell: str | None) -> frozenset[str]:
    """The tasks that some arms, or a cell, need and nothing else of the plan does. Raises BadInput for unknown ones."""
    known = {planned.cell.arm for planned in plan.cells}
    for arm in arms or ():
        if arm not in known:
            raise BadInput(f"--arm: {unknown('arm', arm, known)}")
    chosen = find_cell(plan, cell).digest if cell else None
    theirs, others = set[str](), set[str]()
    for planned in plan.cells:
        wanted = planned.cell.arm in (arms or ()) or planned.digest == chosen
        (theirs if wanted else others).update(behind(plan, planned))
    return frozenset(theirs - others)


def behind(plan: Plan, planned: PlannedCell) -> set[str]:
    """Every task that a cell needs."""
    found: set[str] = set()
    pending = [planned.stream, *planned.extracts, *(scored.task for scored in planned.scores)]
    while pending:
        digest = pending.pop()
        if digest not in found:
            found.add(digest)
            pending += plan.tasks[digest].inputs
    return found
