"""A sweep that takes seconds, on a cluster of our own, and what is queued for it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from orchestrator.backends.slurm.jobs import jobs_of
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE, waves
from orchestrator.commands import cancel, doctor, logs, report, run, status, submit  # noqa: F401  (each adds itself to the app)
from orchestrator.commands import plan as plan_command  # noqa: F401
from orchestrator.commands.app import app
from orchestrator.plan.make import plan
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import changed, metrics, run_here
from tests.slurm.cluster import Cluster

# One training, one reference, two streams of two blocks, and their scores: five array tasks.
SMALL = """\
name: small
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  nag: {nag: {scale: 1.0}}
"""

# 150 s of each stage are as much as an array task may do; unmeasured tasks are guessed to take longer than they do.
# A task takes 0.7 to 0.9 GB, and Slurm may look at it just when it starts a process, which then counts as much again.
SITE = """\
kind: slurm
partition: gpu
cpu_partition: cpu
reconcile: manual
poll_s: 0.5
stagger_s: 0
signal_s: 5
visible_after_s: 3
throttle: 1
target_minutes: 5
stages:
  train: {minutes: 6, memory_gb: 2, cpus: 1}
  sample: {minutes: 6, memory_gb: 2, cpus: 1}
  reference: {minutes: 6, memory_gb: 2, cpus: 1, gpus: 0}
  score: {minutes: 6, memory_gb: 2, cpus: 1}
  reconcile: {minutes: 6, memory_gb: 1, cpus: 1}
"""

CLOSED = ("closed", "closed_cpu")  # partitions in which nothing starts
ROOT = Path(__file__).parents[2]


@dataclass
class Place:
    """A user's folder with a sweep, a site and a store, on a cluster."""

    folder: Path
    cluster: Cluster
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = {**self.cluster.env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.env}
        self.store = Store(str(self.folder / "results" / "store"))
        for name in CLOSED:  # or they are there
            self.cluster.run("scontrol", "create", f"PartitionName={name}", "Nodes=ALL", "State=DOWN")
        self.sweep(SMALL)
        self.site()

    def sweep(self, text: str) -> None:
        (self.folder / "sweep.yaml").write_text(text)

    def site(self, *changes: str, more: str = "") -> None:
        (self.folder / "site.yaml").write_text(changed(SITE, *changes) + more)

    def closed(self, *changes: str, more: str = "") -> None:
        """The site, with everything in partitions where nothing starts."""
        partitions = ("partition: gpu\ncpu_partition: cpu", "partition: {}\ncpu_partition: {}".format(*CLOSED))
        self.site(*partitions, *changes, more=more)

    def command(self, command: str, *options: str) -> list[str]:
        site = ["--site", "site.yaml"] if command in ("submit", "run", "plan", "doctor") else []
        tracking = ["--tracking", "none"] if command in ("submit", "run", "report") else []
        return [command, "sweep.yaml", *site, *tracking, *options]

    def run(
        self, command: str, *options: str, env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """The command in a process of its own."""
        return self.start(command, *options, env=env, **more)[1]()

    def start(self, command: str, *options: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        words = [sys.executable, "-m", "orchestrator.cli", *self.command(command, *options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(words, env={**self.env, **(env or {})}, cwd=self.folder, **pipes, **more)

        def wait() -> subprocess.CompletedProcess[str]:
            out, err = process.communicate(timeout=600)
            return subprocess.CompletedProcess(words, process.returncode, out, err)

        return process, wait

    def __call__(self, command: str, *options: str, env: dict[str, str] | None = None) -> Result:
        """The command in this process: without the second that Python and the imports take."""
        with self.inside(env):
            return CliRunner().invoke(app, self.command(command, *options), catch_exceptions=False)

    @contextlib.contextmanager
    def inside(self, env: dict[str, str] | None = None) -> Iterator[None]:
        """Give this process the user's environment and working folder for a while."""
        kept, at = dict(os.environ), os.getcwd()
        os.environ.clear()
        os.environ.update({**self.env, **(env or {})})
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(at)
            os.environ.clear()
            os.environ.update(kept)

    # What is queued.

    def queue(self) -> dict[str, tuple[str, str]]:
        """Our jobs and array tasks that are not over: id -> (name, state)."""
        lines = self.cluster.out("squeue", "-h", "-r", "-o", "%i %j %T").splitlines()
        stem = f"nb.root.{self.name}."
        rows = {job: (name, state) for job, name, state in map(str.split, lines)}
        return {job: row for job, row in rows.items() if row[0].startswith(stem)}

    def array_tasks(self) -> list[str]:
        return [job for job, (name, _) in self.queue().items() if not name.endswith((RECONCILE, INSTEAD))]

    @property
    def name(self) -> str:
        return read_sweep(str(self.folder / "sweep.yaml")).name

    def steps_queued(self) -> Counter[tuple[str, int | None]]:
        """How often each task or block is in an array that has a job."""
        found: Counter[tuple[str, int | None]] = Counter()
        for wave in waves(self.store, self.name, closed=True):
            for job in jobs_of(self.store, wave):
                assert job.id is not None
                for task in job.array.tasks:
                    for bundle in task.bundles:
                        for digest, blocks in bundle.steps:
                            found.update((digest, number) for number in (blocks or (None,)))
        return found

    def open_waves(self) -> list[int]:
        return [wave.number for wave in waves(self.store, self.name)]

    def files(self) -> dict[str, bytes]:
        """The store and all else below the folder, to see that nothing changes."""
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def wait(self, seconds: float = 120) -> None:
        from tests.slurm.cluster import wait

        wait(lambda: not self.queue(), f"nothing of {self.name} is in the queue", seconds, 0.2)

    def marks(self, kind: str) -> list[dict[str, Any]]:
        paths = sorted(self.folder.glob(f"results/store/waves/*/*/{kind}/*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.rglob("*_log.out"))

    def metrics(self) -> dict[str, Any]:
        found = plan(read_sweep(str(self.folder / "sweep.yaml")))
        return metrics(document(collect(found, self.store), self.store))

    def local_metrics(self) -> dict[str, Any]:
        """The same, of a run in this process."""
        return metrics(run_here(self.folder / "sweep.yaml", self.folder / "local").document())


def wrapper(folder: Path, path: str | None = None, **scripts: str) -> dict[str, str]:
    """A PATH on which these commands are shell scripts; in them, the real ones have their usual names."""
    folder.mkdir(exist_ok=True)
    for name, body in scripts.items():
        (folder / name).write_text(f'#!/bin/sh\nPATH="${{PATH#*:}}"\n{body}\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{path or os.environ['PATH']}"}


def counting(folder: Path, *commands: str) -> tuple[dict[str, str], Any]:
    """A PATH on which these commands count their calls, and the counts."""
    folder.mkdir(exist_ok=True)
    calls = folder / "calls"
    calls.touch()
    for command in commands:
        (folder / command).write_text(
            f'#!/bin/sh\necho {command} >> {calls}\nPATH="${{PATH#*:}}" exec {command} "$@"\n'
        )
        (folder / command).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, lambda: Counter(calls.read_text().split())
