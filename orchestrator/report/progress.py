"""How far a sweep is: counts by kind of task, and the live view of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from orchestrator.plan import Done, Plan, missing
from orchestrator.store import Store
from orchestrator.tasks import BLOCK_KINDS, KINDS

Counts = dict[str, dict[str, int]]
LINE_EVERY_S = 10.0


def counts(plan: Plan, store: Store) -> Counts:
    """For each kind: how many tasks and blocks the plan has, and how many of them a run would still do."""
    todo = missing(plan, Done(store))
    found: Counts = {}
    for digest, task in plan.tasks.items():
        count = found.setdefault(task.kind, {"tasks": 0, "tasks_to_do": 0, "blocks": 0, "blocks_to_do": 0})
        count["tasks"] += 1
        count["tasks_to_do"] += digest in todo
        if task.kind in BLOCK_KINDS:
            count["blocks"] += plan.blocks[digest]
            count["blocks_to_do"] += len(todo.get(digest) or ())
    return {kind: found[kind] for kind in KINDS if kind in found}


def counts_table(counts: Counts) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "all", "done", "to do", "blocks to do"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for kind, count in counts.items():
        left = count["tasks_to_do"]
        blocks = f"{count['blocks_to_do']:,} of {count['blocks']:,}" if kind in BLOCK_KINDS else ""
        table.add_row(kind, f"{count['tasks']:,}", f"{count['tasks'] - left:,}", f"{left:,}", blocks)
    return table


CELLS_SHOWN = 60


def cells_table(plan: Plan) -> Table:
    """The cells with what varies between them."""
    keys = list(dict.fromkeys(key for planned in plan.cells for key in planned.cell.params))
    several = [k for k in keys if len({str(planned.cell.params.get(k)) for planned in plan.cells}) > 1]
    more = len(plan.cells) - CELLS_SHOWN
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"and {more:,} more" if more > 0 else None)
    for name in ("cell", "arm", *several):
        table.add_column(name)
    for planned in plan.cells[:CELLS_SHOWN]:
        values = (str(planned.cell.params.get(key, "")) for key in several)
        table.add_row(planned.digest[:12], planned.cell.arm, *values)
    return table


class Rate(ProgressColumn):
    """Units a second, with the unit of the stage."""

    def render(self, task: Bar) -> Text:
        unit = task.fields["unit"]
        if not task.speed:
            return Text("", style="dim")
        return Text(
            f"{task.speed:,.0f} {unit}/s" if task.speed >= 1 else f"{60 * task.speed:.1f} {unit}/min", style="dim"
        )


class Bars:
    """A bar for each stage, with rate and time left."""

    def __init__(self, progress: Progress) -> None:
        self.console, self.shown = progress.console, progress
        self.bars: dict[str, object] = {}

    def stages(self, total: Mapping[str, float]) -> None:
        for bar in self.bars.values():
            self.shown.remove_task(bar)  # type: ignore[arg-type]
        self.bars = {
            kind: self.shown.add_task(kind, total=total[kind], unit=unit(kind), start=False)
            for kind in KINDS
            if kind in total
        }

    def progress(self, kind: str, done: float) -> None:
        bar = self.bars[kind]
        if done:
            self.shown.start_task(bar)  # type: ignore[arg-type]
        self.shown.update(bar, completed=done)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False)


class Lines:
    """The same, as a line now and then, for output that is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.last = time.monotonic()

    def stages(self, total: Mapping[str, float]) -> None:
        self.total, self.done = dict(total), {}
        self._print("to do: " + ", ".join(f"{kind} {total[kind]:,.0f} {unit(kind)}" for kind in KINDS if kind in total))

    def progress(self, kind: str, done: float) -> None:
        finished = done >= self.total[kind] > self.done.get(kind, 0)
        self.done[kind] = done
        if finished:
            self._print(f"{kind}: all {self.total[kind]:,.0f} {unit(kind)} done")
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            parts = [f"{kind} {self.done.get(kind, 0):,.1f}/{total:,.0f}" for kind, total in self.total.items()]
            self._print(", ".join(parts))

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        self.console.print(text, markup=False)


def unit(kind: str) -> str:
    return "samples" if kind in BLOCK_KINDS else "tasks"


@contextlib.contextmanager
def watch(console: Console, plan: Plan) -> Iterator[Bars | Lines]:
    """Watch a run on this console: bars on a terminal, lines elsewhere."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.1f}/{task.total:,.0f}"),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=False) as progress:
        yield Bars(progress)
