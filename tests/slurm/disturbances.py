"""What befalls a cluster or a store: a limit, a full or a read-only file system, files that are damaged or hidden."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done
from orchestrator.store.store import Store
from tests.slurm.cluster import Cluster, wait

HIDDEN_S = 3.0


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of its own in a folder; `remount("ro")`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "nagbench-test", folder], check=True)
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Hiding(threading.Thread):
    """Renames the records of trainings and the first blocks as soon as they appear, and puts them back later."""

    def __init__(self, store: Path, aside: Path) -> None:
        super().__init__(daemon=True)
        self.store, self.aside, self.ended, self.hid = store, aside, threading.Event(), dict[Path, float]()
        aside.mkdir()

    def run(self) -> None:
        while not (self.ended.is_set() and all(place.exists() for place in self.hid)):
            for place in {*self.store.glob("records/train/*.json"), *self.store.glob("blocks/*/0*0.safetensors")}:
                if place not in self.hid:
                    place.rename(self._kept(place))
                    self.hid[place] = time.monotonic()
            for place, since in self.hid.items():
                if time.monotonic() - since > HIDDEN_S and self._kept(place).exists():
                    self._kept(place).rename(place)
            time.sleep(0.02)

    def _kept(self, place: Path) -> Path:
        return self.aside / f"{place.parent.name}-{place.name}"


def preempt(cluster: Cluster, node: str) -> None:
    """A job of a higher partition takes a node for a second."""
    cluster.submit("sleep 1", "--partition=urgent", f"--nodelist={node}", "--exclusive")


def limit(cluster: Cluster, jobs: int) -> None:
    """The account may have so many jobs in the queue; -1: as many as it likes."""

    def known() -> list[str]:
        shown = cluster.out("scontrol", "show", "assoc_mgr", "users=root", "flags=assoc")
        return sorted(set(re.findall(r"MaxSubmitJobs=(\d+)", shown)))

    cluster.out("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={jobs}")
    wait(lambda: known() == ([f"{jobs}"] if jobs > 0 else []), "slurmctld knows the limit")


def limit_of_qos(cluster: Cluster, jobs: int) -> None:
    """Each user of the QoS may have so many jobs in the queue; -1: as many as they like."""

    def known() -> list[str]:
        shown = cluster.out("scontrol", "show", "assoc_mgr", "flags=qos", "qos=normal")
        return sorted(set(re.findall(r"MaxSubmitJobsPU=(\d+)", shown)))

    cluster.out("sacctmgr", "-i", "modify", "qos", "normal", "set", f"MaxSubmitJobsPerUser={jobs}")
    wait(lambda: known() == ([f"{jobs}"] if jobs > 0 else []), "slurmctld knows the limit")


def fill(store: Store, seconds: float) -> None:
    """Leave no room on the file system of a store for a while."""
    full = Path(store.root).parent / "full"
    with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(seconds)
    full.unlink()


def truncate(store: Store, planned: Plan, chance: random.Random) -> None:
    """Damage a block of features that are still to be scored, if there is one."""
    done, tasks = Done(store), planned.tasks.items()
    scored = {task.params["features"] for _, task in tasks if task.kind == "score" and done.small_done(task)}
    streams = [digest for digest, task in tasks if task.kind == "extract" and digest not in scored]
    found = [store.path(f"blocks/{digest}/{name}") for digest in streams for name in store.list(f"blocks/{digest}")]
    if found:
        place = Path(chance.choice(found))
        place.write_bytes(place.read_bytes()[:100])
