"""Progress of a sweep: its size, counts by kind of task, its cells."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.plan.model import PlannedCell, StoredCell, StoredPlan
from orchestrator.plan.progress import Done, missing
from orchestrator.report.formatting import plural
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.terminal_tables import TerminalTable
from orchestrator.spec.equal_price import evaluations_of
from orchestrator.spec.parameters import NFE
from orchestrator.tasks.task import KINDS, makes_blocks

Counts = dict[str, dict[str, int]]
COUNTED = ("tasks", "tasks_to_do", "tasks_in_part", "blocks", "blocks_to_do")


def counts(plan: StoredPlan, done: Done) -> Counts:
    """For each kind of task: how many tasks and blocks the plan has, how many are still to do, and how many of those
    tasks have some of their blocks already, as after a higher count.
    """
    todo = missing(plan, done)
    by_kind: Counts = {}
    for digest, task in plan.tasks.items():
        count = by_kind.setdefault(task.kind, dict.fromkeys(COUNTED, 0))
        count["tasks"] += 1
        count["tasks_to_do"] += digest in todo
        if task.makes_blocks:
            count["blocks"] += plan.blocks[digest]
            count["blocks_to_do"] += len(todo.get(digest) or ())
            count["tasks_in_part"] += 0 < len(todo.get(digest) or ()) < plan.blocks[digest]
    return {kind: by_kind[kind] for kind in KINDS if kind in by_kind}


def shape(plan: StoredPlan) -> str:
    """`15 cells in 5 arms, 9 of them chosen among 18 candidates, 4 trainings.` plan: before any choice."""
    trainings = sum(task.kind == "train" for task in plan.tasks.values())
    open_, candidates = to_choose(plan)
    cells, arms = plural(len(plan.cells) + open_, "cell"), plural(len(plan.sweep.arms), "arm")
    chosen = f", {open_:,} of them chosen among {plural(candidates, 'candidate')}" if open_ else ""
    return f"{cells} in {arms}{chosen}, {plural(trainings, 'training')}."


def to_choose(plan: StoredPlan) -> tuple[int, int]:
    """How many cells of tuned arms will be chosen, and among how many candidates: settings, each of all training seeds.
    plan: before any choice.
    """
    cells = sum(len(race.candidates[0].cells) for race in plan.races)
    return cells, sum(len(race.candidates) for race in plan.races if race.follows is None)


def counts_table(counts: Counts) -> TerminalTable:
    rows = []
    for kind, count in counts.items():
        left = count["tasks_to_do"]
        blocks = f"{count['blocks_to_do']:,} of {count['blocks']:,}" if makes_blocks(kind) else ""
        part = count["tasks_in_part"]
        done = f"{count['tasks'] - left:,}" + (f" + {part:,} in part" if part else "")
        rows.append((kind, f"{count['tasks']:,}", done, f"{left:,}", blocks))
    return TerminalTable(numbers("task", ("all", "done", "to do", "blocks to do"), rows))


def numbers(first: str, others: Sequence[str], rows: Sequence[Sequence[str]], notes: tuple[str, ...] = ()) -> Table:
    """A table with a column of names, then columns of numbers."""
    columns = (Column(first), *(Column(name, numeric=True) for name in others))
    return Table(columns, tuple(Row(tuple(map(TableCell, row))) for row in rows), notes=notes)


CELLS_SHOWN = 60


def cells_table(plan: StoredPlan) -> TerminalTable:
    """The first CELLS_SHOWN cells, with the parameters that vary."""
    keys = list(dict.fromkeys(key for planned in plan.cells for key in planned.params))
    several = [k for k in keys if len({str(planned.params.get(k)) for planned in plan.cells}) > 1]
    shown = plan.cells[:CELLS_SHOWN]
    rows = [
        (planned.digest[:12], planned.arm, *(str(planned.params.get(key, "")) for key in several)) for planned in shown
    ]
    if any(NFE in planned.params for planned in shown):  # the steps are not in the file
        several += ["steps", "NFE"]
        rows = [(*row, *_steps(plan, planned)) for row, planned in zip(rows, shown, strict=True)]
    more = len(plan.cells) - CELLS_SHOWN
    notes = (f"and {more:,} more",) if more > 0 else ()
    heads = [Column("cell"), Column("arm"), *(Column(key.replace(".", ".\n"), numeric=True) for key in several)]
    return TerminalTable(Table(tuple(heads), tuple(Row(tuple(map(TableCell, row))) for row in rows), notes=notes))


def _steps(plan: StoredPlan, planned: StoredCell) -> tuple[str, str]:
    """The steps of a cell, and its network evaluations (NFE) of a sample; of a stored plan only the steps are known."""
    steps = plan.tasks[planned.stream].params["sampler"]["fields"].get("steps")
    calls = evaluations_of(planned.cell) if isinstance(planned, PlannedCell) else None
    return "" if steps is None else f"{steps:,}", "" if calls is None else f"{calls:,}"
