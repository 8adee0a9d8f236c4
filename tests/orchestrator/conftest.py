"""A sweep of seconds: tiny networks, few samples, every stage; and ways to run it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.inline import Inline
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator import forked

TINY = """\
name: tiny
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels, {name: digits, steps: 5}], metrics: [fid, precision_recall, class_accuracy]}
arms:
  plain: {}
  nag: {nag: {scale: {grid: [1.0, 2.0]}}}
  cfg: {cfg: {scale: 1.5}}
"""


def changed(text: str, *changes: str) -> str:
    """A text with replacements: `changed(text, old, new, old, new, ...)`."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text, old
        text = text.replace(old, new)
    return text


class Quiet:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.totals: list[dict[str, float]] = []
        self.losses: dict[str, float] = {}

    def stages(self, total: dict[str, float]) -> None:
        self.totals.append(total)

    def progress(self, kind: str, done: float) -> None:
        pass

    def finished(self, kind: str, digest: str) -> None:
        pass

    def loss(self, digest: str, value: float) -> None:
        self.losses[digest] = value

    def note(self, text: str) -> None:
        self.notes.append(text)


class Ran:
    """A sweep that was run in this process."""

    def __init__(
        self, plan: Plan, store: Store, backend: Inline | None, observer: Quiet, failed: dict[str, str]
    ) -> None:
        self.plan, self.store, self.backend, self.observer, self.failed = plan, store, backend, observer, failed

    @property
    def did(self) -> dict[str, float]:
        """What was done, by kind: tasks, or samples."""
        return self.observer.totals[-1] if self.observer.totals else {}

    def document(self) -> dict[str, Any]:
        return document(collect(self.plan, self.store), self.store)


def metrics(found: dict[str, Any]) -> dict[str, Any]:
    """All numbers of a report, without what a run costs."""
    return {cell["arm"] + json.dumps(cell["params"], sort_keys=True): cell["metrics"] for cell in found["cells"]}


def run_here(sweep: str | Path, store: str | Path, options: Options | None = None) -> Ran:
    planned, opened, observer = plan(read_sweep(sweep)), Store(str(store)), Quiet()
    backends: list[Inline] = []

    def backend() -> Inline:
        backends.append(Inline(opened, options or Options()))
        return backends[0]

    failed = engine.run(planned, opened, backend, observer)
    return Ran(planned, opened, backends[0] if backends else None, observer, failed)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(old, new, old, new, ...)`: the tiny sweep as a file, with replacements."""

    def made(*changes: str, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(changed(TINY, *changes))
        return path

    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The tiny sweep, run once, undisturbed, in this process. Nobody may change its store: copy it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "sweep.yaml").write_text(TINY)
    return run_here(folder / "sweep.yaml", folder / "store")


AWAY = tempfile.mkdtemp(prefix="nagbench-tests-")  # where commands run: they write their reports below it
atexit.register(shutil.rmtree, AWAY, ignore_errors=True)


def pytest_sessionfinish() -> None:
    """The processes of pytest-xdist end without what `atexit` has."""
    shutil.rmtree(AWAY, ignore_errors=True)


def nagbench(*arguments: str | Path, cwd: str | Path = AWAY, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, in a process that has its modules already. Options: env, timeout, before."""
    return forked.run(list(map(str, arguments)), cwd, **options)


def begun(*arguments: str | Path) -> forked.Command:
    """The same in the background."""
    return forked.Command(list(map(str, arguments)), AWAY)


def new_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, as a user's shell starts it."""
    options = {"capture_output": True, "text": True, "timeout": 240, "cwd": AWAY, **options}
    return subprocess.run(command(*arguments), **options)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]


def heed_ctrl_c() -> None:
    """For a new process: a shell's background jobs, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    """The command in the background, with a process group of its own. more: environment variables."""
    env = os.environ | {"PYTHONUNBUFFERED": "1", **more}
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=AWAY,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
