"""`python -m tests.ray.soak [ROUNDS] [SEED]`, the second half of `make soak`: sweeps on a Ray of our own where all goes
wrong.

In each round one sweep runs, watched or as a job of the cluster, and all of FAULTS befall it in random order. Then it
must have the numbers of an undisturbed run bit for bit, and nothing that was done may have been done again. Each round
prints one line; the seed is printed, and the same seed gives the same order.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.ray.jobs import RUNNING
from orchestrator.plan.make import plan
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, metrics
from tests.ray.conftest import made_again, node, processes, ray_of_our_own, started, until
from tests.slurm.disturbances import fill, mounted, truncate
from tests.slurm.faults import ARMS, PACED, says, undisturbed
from tests.slurm.soak import ROUNDS, TEXT, ended, out

ROUND_S = 900.0  # in which a round must be over
ROOT = Path(__file__).parents[2]


@dataclass
class Round:
    folder: Path
    ray: str  # the folder of Ray's own files
    cluster: Any
    nodes: list[Any]  # with a GPU; one may be lost at a time
    chance: random.Random
    job: bool  # whether the sweep is a job of the cluster; else an engine watches
    engine: subprocess.Popen[str] | None = None
    began: int = 0  # drivers

    def __post_init__(self) -> None:
        (self.folder / "paced.py").write_text(PACED)
        (self.folder / "sweep.yaml").write_text(TEXT)
        site = f"kind: ray\naddress: {self.cluster.address}\njobs: http://{self.cluster.webui_url}\n"
        (self.folder / "site.yaml").write_text(f"{site}python: {sys.executable}\nworker: {{gpus: 1, cpus: 1}}\n")
        self.store = Store(str(self.folder / "results" / "store"))
        self.faults = Path(os.environ["NAGBENCH_FAULTS"])

    def command(
        self, command: str, *options: str, output: Any = subprocess.PIPE, errors: Any = subprocess.STDOUT
    ) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "orchestrator.cli", command, "sweep.yaml", "--site", "site.yaml", *options]
        words += ["--tracking", "none", "--checkpoint-seconds", "0.5"] if command in ("run", "submit") else []
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipes: dict[str, Any] = {"stdout": output, "stderr": errors, "text": True}
        return subprocess.Popen(words, cwd=self.folder, env=environment, **pipes)

    def begin(self) -> None:
        """Start the driver of the sweep, for the first time or again."""
        self.began += 1
        with (self.folder / "driver.log").open("a") as log:
            made = self.command("submit" if self.job else "run", output=log)
        if self.job:
            assert made.wait(240) == 0, "not submitted"
        else:
            self.engine = made

    def drivers(self) -> list[int]:
        if self.job:
            return processes(b"orchestrator.backends.ray.jobs", self.ray)
        assert self.engine is not None
        return [self.engine.pid] if self.engine.poll() is None else []

    def over(self) -> bool:
        if not self.job:
            return not self.drivers()
        states = json.loads(self.command("status", "--json", errors=subprocess.DEVNULL).communicate()[0])["ray_jobs"]
        return all(each["status"] not in RUNNING for each in states)

    def said(self) -> str:
        """What the drivers wrote."""
        of_job = self.command("logs").communicate()[0] if self.job else ""
        return (self.folder / "driver.log").read_text() + of_job


def an_actor_is_killed(now: Round) -> None:
    os.kill(now.chance.choice(until(lambda: processes(b"ray::Actor", now.ray), 120)), signal.SIGKILL)


def a_node_is_lost_and_another_comes(now: Round) -> None:
    until(lambda: processes(b"ray::Actor.turn", now.ray), 120)
    now.cluster.remove_node(now.nodes.pop(now.chance.randrange(len(now.nodes))))
    time.sleep(now.chance.uniform(0, 8))
    now.nodes.append(node(now.cluster, f"n{time.time():.0f}"))


def a_node_comes_and_goes(now: Round) -> None:
    made = node(now.cluster, f"n{time.time():.0f}")
    time.sleep(now.chance.uniform(2, 12))
    now.cluster.remove_node(made)


def the_driver_is_killed(now: Round) -> None:
    for pid in until(now.drivers, 60):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not now.drivers(), 60)
    time.sleep(now.chance.uniform(0, 5))
    until(now.over, 60)  # the cluster knows of the end of a job a little later
    now.begin()


def the_store_is_full(now: Round) -> None:
    fill(now.store, now.chance.uniform(3, 10))


def a_block_is_truncated(now: Round) -> None:
    truncate(now.store, plan(read_sweep(str(now.folder / "sweep.yaml"))), now.chance)


FAULTS = (
    *(an_actor_is_killed, a_node_is_lost_and_another_comes, a_node_comes_and_goes, the_driver_is_killed),
    *(the_store_is_full, a_block_is_truncated),
)


def round_of(now: Round, base: Ran) -> str:
    """Run one round. Returns what happened, in a line; raises what went wrong."""
    began = time.monotonic()
    says(now.faults, step=0.05, pace=3)
    now.begin()
    for fault in now.chance.sample(FAULTS, len(FAULTS)):
        time.sleep(now.chance.uniform(2, 8))
        fault(now)
    says(now.faults, step=0, pace=0.1)
    end = time.monotonic() + ROUND_S
    while not now.over():
        if time.monotonic() > end:
            raise TimeoutError(f"not over after {ROUND_S:.0f} s")
        time.sleep(1)
    again = now.command("run")  # finds nothing to do but what failed, which is not tried again
    said = again.communicate()[0]
    assert again.returncode == 1, said
    until(lambda: not processes(b"ray::Actor", now.ray), 60)  # Ray ends those of a driver that has ended
    same(now, base)
    attempts = [json.loads(path.read_text()) for path in now.folder.glob("results/store/attempts/*/*.json")]
    causes = Counter(attempt["cause"] for attempt in attempts)
    assert causes["bad_input"] >= 1
    words = ", ".join(f"{cause} {number}" for cause, number in sorted(causes.items()))
    how = f"{'a job' if now.job else 'an engine'}, {now.began} drivers"
    return f"good in {time.monotonic() - began:.0f} s ({how}); attempts: {words}"


def same(now: Round, base: Ran) -> None:
    """The numbers are those of the undisturbed run, and no block was made twice."""
    planned = plan(read_sweep(str(now.folder / "sweep.yaml")))
    ours, theirs = metrics(document(collect(planned, now.store), now.store)), metrics(base.document())
    kept = {key: value for key, value in ours.items() if key.partition("{")[0] in ARMS}
    assert kept
    assert kept.items() <= theirs.items()
    again = made_again(planned, now.store)
    assert not again, f"made again: {again}"


def main(rounds: int, seed: int) -> int:
    signal.signal(signal.SIGTERM, ended)
    folder = Path(tempfile.mkdtemp(prefix="ray-soak-"))
    out(f"{rounds} rounds on Ray, seed {seed}, in {folder}")
    bad = 0
    base = undisturbed(folder / "base", TEXT)
    for number in range(rounds):
        here = folder / f"r{number}"
        (here / "faults").mkdir(parents=True)
        os.environ["NAGBENCH_FAULTS"] = str(here / "faults")
        chance = random.Random(seed + number)
        with ray_of_our_own() as ray, started() as cluster, mounted(here / "results", megabytes=96):
            try:
                now = Round(here, ray, cluster, cluster.nodes, chance, chance.random() < 0.5)
                said = round_of(now, base)
            except Exception:  # noqa: BLE001  (the next round is to come all the same)
                bad += 1
                said = f"BAD\n{traceback.format_exc()}"
                said += now.said()[-8000:]
                if now.engine is not None:
                    now.engine.kill()
            out(f"round {number} (seed {seed + number}): {said}")
        if "BAD" not in said:
            shutil.rmtree(here, ignore_errors=True)
    out(f"{rounds - bad} of {rounds} rounds on Ray were good")
    return int(bad > 0)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(given[:1] or [ROUNDS]), *(given[1:2] or [int(time.time())])))
