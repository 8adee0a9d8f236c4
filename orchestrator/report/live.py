"""The live view of a run: bars, an overall line and a table of the scores so far; lines where there is no terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

from rich.console import Console, RenderableType
from rich.console import Group as RichGroup
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from orchestrator.errors import NagbenchError
from orchestrator.plan.model import StoredPlan
from orchestrator.report.comparisons import groups
from orchestrator.report.formatting import calls_text, label, metric_name, plural, value_text
from orchestrator.report.progress import numbers
from orchestrator.report.results import LiveResults, Results
from orchestrator.report.terminal_tables import TerminalTable
from orchestrator.report.time_left import TimeLeft
from orchestrator.store.store import Store
from orchestrator.tasks.task import KINDS, kind_of

LINE_EVERY_S = 10.0
TABLE_EVERY_S, SHARE = 1.0, 20  # between tables: at least this long, and this many times what reading the scores takes
METRICS_SHOWN, ROWS_SHOWN = 4, 3


class Rate(ProgressColumn):
    """Units per second, or per minute if slow."""

    def render(self, task: Bar) -> Text:
        unit = task.fields["unit"]
        if not task.speed:
            return Text("", style="dim")
        return Text(
            f"{task.speed:,.0f} {unit}/s" if task.speed >= 1 else f"{60 * task.speed:.1f} {unit}/min", style="dim"
        )


class Overall:
    """What the overall line tells: cells done, the loss of the training that reported last, the time left."""

    def __init__(self) -> None:
        self.left = TimeLeft()
        self.training, self.loss = "", 0.0  # the training that reported last, and its loss
        self.cells: tuple[int, int] | None = None  # done, and all that are known
        self.choices = 0  # of tuned values, from which more cells follow

    def reported(self, training: str, loss: float) -> None:
        self.training, self.loss = training, loss

    def finished(self, digest: str) -> None:
        self.training = "" if digest == self.training else self.training

    def words(self) -> str:
        parts = [f"{self.cells[0]:,} of {plural(self.cells[1], 'cell')} done"] if self.cells else []
        parts += [f"{plural(self.choices, 'choice')} of tuned values open"] if self.choices else []
        parts += [f"loss {self.loss:.4g}"] if self.training else []
        parts += [self.left.words()]
        return ", ".join(filter(None, parts))


class Bars:
    """A bar for each stage with rate and time left, the overall line, and a table of the scores so far.

    The table is drawn anew by the display's own thread while the engine waits, so it is never older than a few seconds.
    """

    def __init__(self, console: Console, plan: StoredPlan, store: Store) -> None:
        self.console, self.overall = console, Overall()
        self.scores = LiveResults(plan, store)
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.1f}/{task.total:,.0f}"),
            Rate(),
            TimeRemainingColumn(),
        )
        self.shown = Progress(*columns, console=console, expand=False)
        self.bars: dict[str, TaskID] = {}
        self.table: TerminalTable | None = None
        self.drawn, self.cost, self.old = 0.0, 0.0, True
        self.lock = threading.Lock()
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.view)

    def stages(self, total: Mapping[str, float]) -> None:
        for bar in self.bars.values():
            self.shown.remove_task(bar)
        self.overall.left.stages(total)
        self.bars = {
            kind: self.shown.add_task(kind, total=total[kind], unit=kind_of(kind).unit, start=False)
            for kind in KINDS
            if kind in total
        }

    def progress(self, kind: str, done: float) -> None:
        if done:
            self.shown.start_task(self.bars[kind])
        self.overall.left.progress(kind, done)
        self.shown.update(self.bars[kind], completed=done)

    def finished(self, kind: str, digest: str) -> None:
        self.overall.finished(digest)
        if kind_of(kind).scores_cells or kind_of(kind).reads_all:
            self.scores.finished(kind, digest)
            self.old = True

    def loss(self, digest: str, value: float) -> None:
        self.overall.reported(digest, value)

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False)

    def view(self) -> RenderableType:
        """Bars, overall line and table; the table is filled again if scores came in and it was not just drawn."""
        if self.lock.acquire(blocking=False):
            try:
                started = time.monotonic()
                if self.old and started - self.drawn >= max(TABLE_EVERY_S, SHARE * self.cost):
                    self.old = False
                    self._fill()
                    self.drawn = time.monotonic()
                    self.cost = self.drawn - started
            finally:
                self.lock.release()
        parts: list[RenderableType] = [self.shown]
        if words := self.overall.words():
            parts.append(Text(words, style="bold"))
        return RichGroup(*parts, *([self.table] if self.table is not None else []))

    def _fill(self) -> None:
        with contextlib.suppress(NagbenchError):  # of the store: the engine tells it
            results = self.scores.results()
            self.overall.cells = sum(cell.complete for cell in results.cells), len(results.cells)
            self.overall.choices = self.scores.choices_open
            if any(cell.scores for cell in results.cells):
                self.table = filling_table(results, self.console.height - len(self.bars) - 8)


def filling_table(results: Results, height: int) -> TerminalTable:
    """Settings with their cells done and their means so far of the first metrics; a note says how many do not fit."""
    metrics, rows = results.metrics[:METRICS_SHOWN], []
    every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    shown = every[: max(ROWS_SHOWN, height)]
    for group in shown:
        done = [cell for cell in group.cells if cell.complete]
        values = [[v for cell in done if (v := cell.value(metric)) is not None] for metric in metrics]
        means = (value_text(sum(known) / len(known)) if known else "" for known in values)
        rows.append((label(results, group), f"{len(done)}/{len(group.cells)}", *means))
    columns = ("cells", *(metric_name(results, metric) for metric in metrics))
    hidden = [cell for group in every[len(shown) :] for cell in group.cells]
    complete = sum(cell.complete for cell in hidden)
    more = f"{plural(len(every) - len(shown), 'more row')}: {complete:,} of {plural(len(hidden), 'cell')} done"
    return TerminalTable(numbers("arm", columns, rows, (more,) if hidden else ()))


class Lines:
    """Progress as occasional lines, for output that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self.console, self.overall = console, Overall()
        self.total: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.last = time.monotonic()

    def stages(self, total: Mapping[str, float]) -> None:
        self.total, self.done = dict(total), {}
        self.overall.left.stages(total)
        parts = [f"{kind} {total[kind]:,.0f} {kind_of(kind).unit}" for kind in KINDS if kind in total]
        self._print("to do: " + ", ".join(parts))

    def progress(self, kind: str, done: float) -> None:
        finished = done >= self.total[kind] > self.done.get(kind, 0)
        self.done[kind] = done
        self.overall.left.progress(kind, done)
        if finished:
            self._print(f"{kind}: all {self.total[kind]:,.0f} {kind_of(kind).unit} done")
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            so_far = {kind: calls_text(round(self.done.get(kind, 0.0), 1)) for kind in self.total}
            parts = [f"{kind} {so_far[kind]}/{total:,.0f}" for kind, total in self.total.items()]
            self._print(", ".join(filter(None, [*parts, self.overall.words()])))

    def finished(self, kind: str, digest: str) -> None:
        self.overall.finished(digest)

    def loss(self, digest: str, value: float) -> None:
        self.overall.reported(digest, value)

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
