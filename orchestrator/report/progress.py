"""Progress of a sweep: counts by kind of task, and the live view of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.console import Group as RichGroup
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from orchestrator.plan.model import PlannedCell, StoredCell, StoredPlan
from orchestrator.plan.progress import Done, missing
from orchestrator.report.comparisons import groups
from orchestrator.report.formatting import label, metric_name, plural, value_text
from orchestrator.report.results import Results, collect
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.terminal_tables import TerminalTable
from orchestrator.spec.equal_price import evaluations_of
from orchestrator.spec.parameters import NFE
from orchestrator.store.store import Store
from orchestrator.tasks.task import KINDS, kind_of, makes_blocks

Counts = dict[str, dict[str, int]]
LINE_EVERY_S = 10.0


def counts(plan: StoredPlan, done: Done) -> Counts:
    """For each kind of task: how many tasks and blocks the plan has, and how many are still to do."""
    todo = missing(plan, done)
    by_kind: Counts = {}
    for digest, task in plan.tasks.items():
        count = by_kind.setdefault(task.kind, {"tasks": 0, "tasks_to_do": 0, "blocks": 0, "blocks_to_do": 0})
        count["tasks"] += 1
        count["tasks_to_do"] += digest in todo
        if task.makes_blocks:
            count["blocks"] += plan.blocks[digest]
            count["blocks_to_do"] += len(todo.get(digest) or ())
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
        rows.append((kind, f"{count['tasks']:,}", f"{count['tasks'] - left:,}", f"{left:,}", blocks))
    return TerminalTable(_numbers("task", ("all", "done", "to do", "blocks to do"), rows))


def _numbers(first: str, others: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with a column of names, then columns of numbers."""
    columns = (Column(first), *(Column(name, numeric=True) for name in others))
    return Table(columns, tuple(Row(tuple(map(TableCell, row))) for row in rows))


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
    return TerminalTable(replace(Table.plain(("cell", "arm", *several), rows), notes=notes))


def _steps(plan: StoredPlan, planned: StoredCell) -> tuple[str, str]:
    """The steps of a cell, and its network evaluations (NFE) of a sample; of a stored plan only the steps are known."""
    steps = plan.tasks[planned.stream].params["sampler"]["fields"].get("steps")
    calls = evaluations_of(planned.cell) if isinstance(planned, PlannedCell) else None
    return "" if steps is None else f"{steps:,}", "" if calls is None else f"{calls:,}"


class Rate(ProgressColumn):
    """Units per second, or per minute if slow."""

    def render(self, task: Bar) -> Text:
        unit = task.fields["unit"]
        if not task.speed:
            return Text("", style="dim")
        return Text(
            f"{task.speed:,.0f} {unit}/s" if task.speed >= 1 else f"{60 * task.speed:.1f} {unit}/min", style="dim"
        )


class Bars:
    """A bar for each stage with rate and time left, above a table of the scores so far."""

    def __init__(self, console: Console, plan: StoredPlan, store: Store) -> None:
        self.console, self.plan, self.store = console, plan, store
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.1f}/{task.total:,.0f}"),
            Rate(),
            TimeRemainingColumn(),
        )
        self.shown = Progress(*columns, console=console, expand=False)
        self.bars: dict[str, TaskID] = {}
        self.live = Live(self.shown, console=console, refresh_per_second=4)
        self.filled, self.cost = 0.0, 0.0

    def stages(self, total: Mapping[str, float]) -> None:
        for bar in self.bars.values():
            self.shown.remove_task(bar)
        self.bars = {
            kind: self.shown.add_task(kind, total=total[kind], unit=kind_of(kind).unit, start=False)
            for kind in KINDS
            if kind in total
        }

    def progress(self, kind: str, done: float) -> None:
        if done:
            self.shown.start_task(self.bars[kind])
        self.shown.update(self.bars[kind], completed=done)

    def finished(self, kind: str, digest: str) -> None:
        """Update the table, but so rarely that reading the scores takes at most a twentieth of the time."""
        started = time.monotonic()
        if kind_of(kind).scores_cells and started - self.filled >= max(1.0, 20 * self.cost):
            table = filling_table(collect(self.plan, self.store), self.console.height - len(self.bars) - 6)
            self.live.update(RichGroup(self.shown, table))
            self.filled = time.monotonic()
            self.cost = self.filled - started

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False)


METRICS_SHOWN = 4


def filling_table(results: Results, height: int) -> TerminalTable:
    """Every setting, with its cells done and its means so far of the first metrics."""
    metrics, rows = results.metrics[:METRICS_SHOWN], []
    shown = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    for group in shown[: max(3, height)]:
        done = [cell for cell in group.cells if cell.complete]
        values = [[v for cell in done if (v := cell.value(metric)) is not None] for metric in metrics]
        means = (value_text(sum(known) / len(known)) if known else "" for known in values)
        rows.append((label(results, group), f"{len(done)}/{len(group.cells)}", *means))
    return TerminalTable(_numbers("arm", ("cells", *(metric_name(results, metric) for metric in metrics)), rows))


class Lines:
    """Progress as occasional lines, for output that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.last = time.monotonic()

    def stages(self, total: Mapping[str, float]) -> None:
        self.total, self.done = dict(total), {}
        parts = [f"{kind} {total[kind]:,.0f} {kind_of(kind).unit}" for kind in KINDS if kind in total]
        self._print("to do: " + ", ".join(parts))

    def progress(self, kind: str, done: float) -> None:
        finished = done >= self.total[kind] > self.done.get(kind, 0)
        self.done[kind] = done
        if finished:
            self._print(f"{kind}: all {self.total[kind]:,.0f} {kind_of(kind).unit} done")
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            parts = [f"{kind} {self.done.get(kind, 0):,.1f}/{total:,.0f}" for kind, total in self.total.items()]
            self._print(", ".join(parts))

    def finished(self, kind: str, digest: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        self.console.print(text, markup=False)


@contextlib.contextmanager
def watch(console: Console, plan: StoredPlan, store: Store) -> Iterator[Bars | Lines]:
    """Show a run on this console: bars and a table in a terminal, lines elsewhere."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    bars = Bars(console, plan, store)
    with bars.live:
        yield bars
