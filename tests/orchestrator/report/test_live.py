"""The live view of a run: never stale, says what it does not show, and how long the rest will take."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.plan.model import StoredCell
from orchestrator.report.live import Bars, filling_table
from orchestrator.report.results import LiveResults, collect
from orchestrator.report.time_left import TimeLeft
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran


def drawn(thing: object, width: int = 80, height: int = 24) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def unscored(finished: Ran, tmp_path: Path) -> Store:
    """The finished sweep's store without its scores."""
    shutil.copytree(finished.store.root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store/records/score")
    return Store(str(tmp_path / "store"))


def score(ran: Ran, store: Store, cell: StoredCell) -> list[str]:
    """Put the scores of a cell into the store, and return their tasks."""
    tasks = [scored.task for scored in cell.scores]
    for task in tasks:
        name = ran.plan.tasks[task].record_name
        Path(store.path(name)).parent.mkdir(exist_ok=True)
        shutil.copy(ran.store.path(name), store.path(name))
    return tasks


def test_results_grow_with_each_score(finished: Ran, unscored: Store) -> None:
    live, cells = LiveResults(finished.plan, unscored), finished.plan.cells
    assert not any(cell.scores for cell in live.results().cells)
    for place in (2, 5):
        for task in score(finished, unscored, cells[place]):
            live.finished("score", task)
    found = live.results().cells
    assert [number for number, cell in enumerate(found) if cell.complete] == [2, 5]
    whole = collect(finished.plan, finished.store).cells
    assert [found[place].scores for place in (2, 5)] == [whole[place].scores for place in (2, 5)]


def test_the_table_is_filled_although_nothing_more_happens(finished: Ran, unscored: Store) -> None:
    """Two scores in quick succession: the second waits for its turn, not for a third one."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    bars = Bars(console, finished.plan, unscored)
    assert "0 of 8 cells done" in drawn(bars.view())
    for cell in finished.plan.cells[:2]:
        for task in score(finished, unscored, cell):
            bars.finished("score", task)
        bars.view()
    time.sleep(1.2)
    shown = drawn(bars.view())
    assert "2 of 8 cells done" in shown
    assert " 2/2" in shown


def test_rows_that_do_not_fit_are_counted(finished: Ran) -> None:
    results = collect(finished.plan, finished.store)
    assert "more row" not in drawn(filling_table(results, 4))
    short = drawn(filling_table(results, 3))
    assert "1 more row: 2 of 2 cells done" in short
    assert "cfg" not in short


def test_trainings_tell_their_loss(finished: Ran) -> None:
    """The worker's first report has one; the overall line shows it until that training is done."""
    trained = {digest for digest, task in finished.plan.tasks.items() if task.trains == "network"}
    assert finished.observer.losses.keys() == trained
    assert all(0 < value < 100 for value in finished.observer.losses.values())
    bars = Bars(Console(file=io.StringIO(), force_terminal=True), finished.plan, finished.store)
    bars.stages({"train": 2.0})
    bars.loss("a", 0.12345)
    assert "loss 0.1235" in drawn(bars.view())
    bars.finished("train", "a")
    assert "loss" not in drawn(bars.view())


def test_the_time_left_of_kinds_side_by_side() -> None:
    """Two kinds that take turns on the same workers: each unit of the one 2 s, of the other 3 s."""
    now = [100.0]
    left = TimeLeft(clock=lambda: now[0])
    left.stages({"sample": 10, "score": 4, "train": 1})
    assert left.words() == ""
    now[0] += 30
    left.progress("train", 1)
    for number in (1, 2):
        now[0] += 2
        left.progress("sample", number)
        now[0] += 3
        left.progress("score", number) if number == 2 else None
    seconds, whole = left.seconds()
    assert whole
    assert seconds == pytest.approx(8 * (2 + 5) / 2 + 2 * 3 / 2)
    assert left.words() == "about 31 s left"
    left.stages({"sample": 10, "score": 4, "train": 1, "extract": 5})
    assert left.words() == "at least 31 s left"
    left.progress("extract", 5)
    left.progress("sample", 10)
    left.progress("score", 4)
    assert left.words() == ""
