"""A finished store with random changes, and the commands that read it: nothing breaks, and running again mends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.orchestrator.conftest import metrics
from tests.robustness import damaged_store
from tests.robustness.cases import TRACEBACK, Case, Outcome, Step, check, stream
from tests.robustness.damaged_store import Change
from tests.robustness.finished import RUN_S, SWEEPS, Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOOKS = (
    *(["status"], ["status", "--json"], ["plan"], ["plan", "--json"], ["logs"], ["du", "--json"], ["du"], ["export"]),
    *(["gc"], ["gc", "--json"], ["gc", "--quarantine", "--json"], ["report"]),
)


class Store(Case):
    def __init__(self, number: int, finished: Finished, folder: Path, workers: bool = False) -> None:
        self.finished, self.chance, self.workers = finished, stream("store", number), workers
        self.sweep = self.chance.choice(sorted(SWEEPS))
        super().__init__("store", number, "", folder)
        self.store, self.outside = folder / "store", folder / "outside"
        self.changes: list[Change] = []

    def files(self) -> list[Path]:
        return [self.store]

    def make(self) -> list[Step]:
        shutil.copytree(self.finished.store, self.store)
        self.outside.mkdir()
        for name in ("000000.safetensors", "000001.json", "notes", ".env", "0" * 32 + ".log"):
            (self.outside / name).write_text("mine")
        count = self.chance.choice((1, 1, 2, 3))
        self.changes = [damaged_store.change(self.store, self.outside, self.chance) for _ in range(count)]
        self.words = f"{self.sweep}: " + "; ".join(change.words for change in self.changes)
        self.before = _hidden(self.store)
        self.report = self._step("report", "--json")
        looks = [self._look(words) for words in self.chance.sample(LOOKS, 3)]
        rest = [self._step("gc", "--delete", *self.chance.choice(([], ["--quarantine"]))), self.report]
        run = self._step("run", "--workers", "1")
        return [*looks, self.report, run, self.report, *(rest if self.chance.random() < 0.5 else [])]

    def _step(self, name: str, *options: str) -> Step:
        sweep = [] if name == "gc" else [str(self.finished.folder / f"{self.sweep}.yaml")]
        target = [str(self.folder / "work" / "out.zip")] if name == "export" else []
        tracking = ["--tracking", "none"] if name in ("run", "report", "status") else []
        words = [name, *sweep, *target, "--store", str(self.store), *tracking, *options]
        return Step(words, limit_s=RUN_S if name == "run" else 20.0, heavy=True, real=self.workers)

    def _look(self, words: list[str]) -> Step:
        return self._step(*words)

    def judge(self, outcomes: list[Outcome]) -> list[str]:
        lies = any(change.lies for change in self.changes)
        refused = lies or any(change.refused for change in self.changes)
        found = []
        known, reports, gone = self.finished.numbers[self.sweep], outcomes[3::2][:1] + outcomes[5::2], outcomes[4]
        for outcome in reports:
            if outcome.hung or TRACEBACK.search(outcome.err):
                continue
            if outcome.code in (0, 1):
                try:
                    numbers = metrics(outcome.document())
                except (ValueError, KeyError, TypeError) as error:
                    found.append(f"report --json is no document: {error!r}")
                    continue
                wrong = [cell for cell in numbers if numbers[cell] != known.get(cell) and numbers[cell]]
                if wrong and not lies and outcome is not reports[0]:
                    found.append(f"other metrics than before: {wrong}")
            elif not refused:
                found.append(f"report refuses: exit code {outcome.code}: {outcome.err[:200]}")
        if (
            gone.code == 0
            and not lies
            and reports[1].code == 0
            and metrics(reports[1].document()).keys() != known.keys()
        ):
            found.append("run says that all is done, and cells are missing")
        if gone.code != 0 and not refused and not gone.hung:
            found.append(f"run does not mend it: exit code {gone.code}: {gone.err[-300:]}")
        for outcome in outcomes:
            if outcome.code in (2, 3) and not any(word in outcome.err for word in self._places()):
                found.append(f"a refusal that does not name the place: {outcome.err[:200]}")
        if {path.name: path.read_text() for path in self.outside.iterdir()} != dict.fromkeys(
            ("000000.safetensors", "000001.json", "notes", ".env", "0" * 32 + ".log"), "mine"
        ):
            found.append("files outside of the store were changed or removed")
        if fresh := _hidden(self.store) - self.before:
            found.append(f"left behind in the store: {sorted(fresh)}")
        return found

    def _places(self) -> set[str]:
        names = {str(self.store)}
        for change in self.changes:
            names |= {change.where, Path(change.where).name, Path(change.where).stem}
        return names


def _hidden(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob(".*")}


def test_stores(finished: Finished, tmp_path: Path) -> None:
    check(lambda number: Store(number, finished, tmp_path / str(number)), "store", 24, heavy=True)
