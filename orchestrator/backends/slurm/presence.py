"""Signs of life of array tasks, for when Slurm's commands do not show one: its heartbeat, and since when it is missing.

Some sites answer squeue from a cache, or leave out jobs for a while. So an array task that Slurm has accepted counts as
lost only when squeue, slurmctld and sacct (where there is one) know nothing of it for `lost_after_s`, while its
heartbeat stands still. Two runs of one array task are harmless, since the first result stays; they are counted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from orchestrator.backends.slurm.waves import Wave, read_or_empty, waves
from orchestrator.errors import NagbenchError
from orchestrator.store.store import Store

LOST_AFTER_S = 300.0
BEATS = 5  # in that time
BEAT_AT_MOST_S = 60.0


def lost_after_s(wave: Wave) -> float:
    return float(wave.record.get("lost_after_s", LOST_AFTER_S))


@contextlib.contextmanager
def beating(store: Store, name: str, lost_after: float) -> Iterator[None]:
    """Keep a small file of the store changing while the body runs."""
    stop = threading.Event()
    every = min(BEAT_AT_MOST_S, lost_after / BEATS)
    thread = threading.Thread(target=_beat, args=(store, name, every, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        with contextlib.suppress(NagbenchError):
            store.delete(name)


def _beat(store: Store, name: str, every_s: float, stop: threading.Event) -> None:
    while not stop.wait(every_s):
        with contextlib.suppress(NagbenchError):  # the store cannot be written now
            store.delete(name)
            store.create_record(name, {"beat": str(time.time_ns())})


def missing_s(store: Store, wave: Wave, place: int, index: int, restart: int, writes: bool) -> float:
    """For how long nothing has been seen of an array task, by any engine. Call when Slurm does not know it. writes:
    note it in the store, so that later engines count on.
    """
    name = wave.mark("missed", place, index, restart)
    beat = read_or_empty(store, wave.mark("beats", place, index, restart)).get("beat", "")
    noted = read_or_empty(store, name)
    if noted and noted["beat"] == beat:
        return max(0.0, time.time() - float(noted["time"]))
    if writes:
        store.delete(name)
        store.create_record(name, {"time": round(time.time(), 3), "beat": beat})
    return 0.0


def seen(store: Store, wave: Wave, place: int, index: int, restart: int) -> None:
    """Slurm knows an array task after all."""
    store.delete(wave.mark("missed", place, index, restart))


def doubled(store: Store, sweep: str) -> int:
    """How many array tasks of a sweep went on after they had been given up as lost, and so ran twice."""
    return sum(len(store.list(f"{wave.folder}/doubled")) for wave in waves(store, sweep, closed=True))
