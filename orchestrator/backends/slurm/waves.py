"""Waves: what was queued, as files of the store, so that a process on any host can go on from there.

waves/<sweep>/<number>/wave.json            what an engine queued at once; the first to create it owns the number
waves/<sweep>/<number>/<array>.json         an array: its job name, what it waits for, the bundles of each array task
waves/<sweep>/<number>/<array>.job.json     the id that Slurm gave it; null: it was never submitted
waves/<sweep>/<number>/starts/<array>-<index>-<restart>.json    an array task started
waves/<sweep>/<number>/ends/<array>-<index>-<restart>.json      how it ended, written by itself or by an engine
waves/<sweep>/<number>/beats/..., missed/..., doubled/...      named alike: signs of life (presence.py)
waves/<sweep>/<number>/room/<number>.json   bundles wait for room in the queue (room.py)
waves/<sweep>/<number>/next/<number>.json   ids of jobs that continue after it (or after all that was queued)
waves/<sweep>/<number>/withdrawn.json       its engine has taken it back
waves/<sweep>/<number>/closed.json          all ends have been processed; the GPU seconds that were used
waves/<sweep>/<number>/failed/<stream>.json a stream has failed for good
waves/<sweep>/<number>/stops/<number>.json  the user cancelled it, or some of its tasks (`nagbench cancel`)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.backends.slurm.arrays import Array, ArrayTask
from orchestrator.backends.slurm.settings import Resources
from orchestrator.errors import CorruptFile
from orchestrator.execution.protocol import Bundle
from orchestrator.store.store import Store

Steps = tuple[tuple[str, "tuple[int, ...] | None"], ...]
RECONCILE = ".reconcile"  # end of the name of the job that continues after a wave
MARKS = ("starts", "ends")  # of array tasks
INSTEAD = ".reconcile2"  # end of the name of the job that does so if that one failed


@dataclass(frozen=True)
class Wave:
    sweep: str
    number: int
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.sweep, self.number

    @property
    def folder(self) -> str:
        return f"waves/{self.sweep}/{self.number:06d}"

    def array_name(self, place: int) -> str:
        return f"{self.folder}/{place:03d}.json"

    def job_name(self, place: int) -> str:
        return f"{self.folder}/{place:03d}.job.json"

    def mark(self, kind: str, place: int, index: int, restart: int) -> str:
        return f"{self.folder}/{kind}/{place:03d}-{index:06d}-{restart:03d}.json"

    def attempt(self, place: int, index: int, restart: int) -> str:
        """The name of a run of an array task as an attempt; the same, whoever reports it."""
        return f"{int(self.record['time'] * 1e9):020d}-{restart:03d}-{place:03d}-{index:06d}"


def job_name_prefix(store: Store, owner: str, sweep: str) -> str:
    """The prefix of the names of all jobs that were queued for a sweep on this store."""
    return f"nb.{owner}.{sweep}.{_short(store.url)}-"


def unique_name(stem: str) -> str:
    """A prefix for the jobs of one wave."""
    return stem + _short(f"{os.getpid()} {time.time_ns()}")


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


@dataclass(frozen=True)
class Stop:
    """What the user cancelled of a wave, and when. only: these tasks; None for all. whole: the user cancelled the whole
    sweep, and what still runs is needed by another one.
    """

    only: frozenset[str] | None
    time: float
    whole: bool

    def covers(self, digests: Iterable[str]) -> bool:
        return self.only is None or self.only.issuperset(digests)


def record_stop(store: Store, wave: Wave, only: Iterable[str] | None, whole: bool = True) -> None:
    """Stop a wave, or some of its tasks. Array tasks read this before each step."""
    chosen = None if only is None else sorted(only)
    record = {"only": chosen, "time": round(time.time(), 3), "whole": whole}
    store.create_record(f"{wave.folder}/stops/{time.time_ns():020d}.json", record)


def read_stop(store: Store, wave: Wave) -> Stop | None:
    """What the user has cancelled of a wave, all stops taken together."""
    stop = None
    for name in store.list(f"{wave.folder}/stops"):
        with contextlib.suppress(CorruptFile):
            record = store.read_record(f"{wave.folder}/stops/{name}", repair=False)
            only = None if record["only"] is None else frozenset(record["only"])
            whole = record["whole"]
            if stop is not None:
                only = None if only is None or stop.only is None else stop.only | only
                whole = whole or stop.whole
            stop = Stop(only, record["time"], whole)
    return stop


def record_next(store: Store, sweep: str, jobs: Sequence[str]) -> None:
    """Record the ids of jobs that continue after the newest wave of a sweep: a site may rename jobs."""
    for wave in waves(store, sweep, closed=True)[-1:]:
        store.create_record(f"{wave.folder}/next/{time.time_ns():020d}.json", {"jobs": list(jobs)})


def next_jobs(store: Store, wave: Wave) -> set[str]:
    """The ids of the jobs that were to continue after a wave."""
    ids: set[str] = set()
    for name in store.list(f"{wave.folder}/next"):
        ids.update(read_or_empty(store, f"{wave.folder}/next/{name}").get("jobs", ()))
    return ids


def record_failed_stream(store: Store, wave: Wave, stream: str, reason: str) -> None:
    """Record that a stream has failed for good. Before each bundle, array tasks check whether its arm is worth it."""
    store.create_record(f"{wave.folder}/failed/{stream}.json", {"reason": reason})


def failed_streams(store: Store, wave: Wave) -> dict[str, str]:
    """The streams of a wave that have failed for good, and why."""
    reasons = {}
    for name in store.list(f"{wave.folder}/failed"):
        with contextlib.suppress(CorruptFile):
            record = store.read_record(f"{wave.folder}/failed/{name}", repair=False)
            reasons[name.removesuffix(".json")] = record["reason"]
    return reasons


def waves(store: Store, sweep: str, *, closed: bool = False) -> list[Wave]:
    """The waves of a sweep, oldest first. closed: include those that are closed."""
    known = []
    for name in store.list(f"waves/{sweep}"):
        wave = Wave(sweep, int(name))
        if not closed and store.exists(f"{wave.folder}/closed.json"):
            continue
        with contextlib.suppress(CorruptFile):  # its engine was killed while it wrote this record
            wave = Wave(sweep, int(name), store.read_record(f"{wave.folder}/wave.json", repair=False))
            known.append(wave)
    return known


def clusters_of(store: Store, sweep: str, *, closed: bool = False) -> str:
    """The clusters to which a sweep was submitted, with commas; "" for that of the machine."""
    given = ",".join(wave.record.get("clusters", "") for wave in waves(store, sweep, closed=closed))
    return ",".join(dict.fromkeys(filter(None, given.split(","))))


def create_wave(store: Store, sweep: str, record: Mapping[str, Any]) -> Wave:
    """Create a wave under the next free number."""
    names = store.list(f"waves/{sweep}")
    wave = Wave(sweep, int(names[-1]) + 1 if names else 1, record)
    while not store.create_record(f"{wave.folder}/wave.json", record):
        wave = Wave(sweep, wave.number + 1, record)
    return wave


def close_wave(store: Store, wave: Wave) -> None:
    record = {"time": round(time.time(), 3), "gpu_seconds": round(gpu_seconds(store, wave), 1)}
    store.create_record(f"{wave.folder}/closed.json", record)


def read_job_id(store: Store, wave: Wave, place: int) -> tuple[bool, str | None]:
    """Whether it is recorded how the submission of an array ended, and its job id; None if it was not submitted."""
    with contextlib.suppress(CorruptFile):
        return True, store.read_record(wave.job_name(place), repair=False)["job"]
    return False, None


def write_array(store: Store, wave: Wave, place: int, array: Array) -> None:
    store.create_record(wave.array_name(place), {**_flat(array), "wave": wave.number, "sweep": wave.sweep})


def read_array(store: Store, name: str) -> Array:
    """An array of the store. Raises MissingFile or CorruptFile."""
    try:
        return _array(store.read_record(name, repair=False))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptFile(f"{name} is not an array ({type(error).__name__}: {error})") from error


def _array(record: Mapping[str, Any]) -> Array:
    digests: list[str] = record["digests"]
    tasks = tuple(ArrayTask(tuple(_bundle(digests, b, record) for b in bundles)) for bundles in record["elements"])
    return Array(
        record["name"],
        record["kind"],
        record["network"],
        Resources(**record["resources"]),
        tuple(record["avoid"]),
        tuple(record["after"]),
        tasks,
        record["throttle"],
        record["seconds"],
    )


def _flat(array: Array) -> dict[str, Any]:
    """An array as JSON; each digest is written once."""
    bundles = [bundle for task in array.tasks for bundle in task.bundles]
    digests = {digest: place for place, digest in enumerate(dict.fromkeys(d for b in bundles for d, _ in b.steps))}
    return {
        "name": array.name,
        "kind": array.kind,
        "network": array.network,
        "plan": bundles[0].plan,
        "resources": asdict(array.resources),
        "avoid": list(array.avoid),
        "after": list(array.after),
        "throttle": array.throttle,
        "seconds": round(array.seconds, 1),
        "digests": list(digests),
        "elements": [
            [[b.micro_batch, b.doublings, _flat_steps(b.steps, digests)] for b in task.bundles] for task in array.tasks
        ],
    }


def _flat_steps(steps: Steps, digests: Mapping[str, int]) -> Any:
    """Steps as JSON. The usual case, the same tasks for each of some blocks, has a short form."""
    tasks = list(dict.fromkeys(digest for digest, _ in steps))
    numbers = list(dict.fromkeys(number for _, blocks in steps for number in blocks or ()))
    if steps == _steps(tasks, numbers or None):
        return [[digests[task] for task in tasks], numbers or None]
    return {"steps": [[digests[digest], blocks] for digest, blocks in steps]}


def _steps(tasks: Sequence[str], numbers: Sequence[int] | None) -> Steps:
    if numbers is None:
        return tuple((task, None) for task in tasks)
    return tuple((task, (number,)) for number in numbers for task in tasks)


def _bundle(digests: Sequence[str], flat: Sequence[Any], array: Mapping[str, Any]) -> Bundle:
    micro_batch, doublings, steps = flat
    if isinstance(steps, dict):
        pairs = tuple((digests[place], None if blocks is None else tuple(blocks)) for place, blocks in steps["steps"])
    else:
        pairs = _steps([digests[place] for place in steps[0]], steps[1])
    return Bundle(
        pairs,
        array["plan"],
        array["kind"],
        array["network"],
        micro_batch,
        doublings,
        tuple(array["avoid"]),
    )


def marks(store: Store, wave: Wave, kind: str) -> dict[tuple[int, int, int], str]:
    """The marks of a wave: (array, index, restart) -> name."""
    names = {}
    for name in store.list(f"{wave.folder}/{kind}"):
        place, index, restart = map(int, name.removesuffix(".json").split("-"))
        names[place, index, restart] = f"{wave.folder}/{kind}/{name}"
    return names


def read_or_empty(store: Store, name: str) -> dict[str, Any]:
    """A mark or another record; empty if it is not there."""
    with contextlib.suppress(CorruptFile):
        return store.read_record(name, repair=False)
    return {}


def newest_marks(store: Store, wave: Wave, kind: str) -> dict[tuple[int, int], tuple[int, str]]:
    """(array, index) -> the latest restart that has such a mark, and the mark's name."""
    return {
        (place, index): (restart, name) for (place, index, restart), name in sorted(marks(store, wave, kind).items())
    }


def gpu_seconds(store: Store, wave: Wave) -> float:
    """GPU seconds that the array tasks of a wave have used, including those that run or were killed."""
    with contextlib.suppress(CorruptFile):
        return float(store.read_record(f"{wave.folder}/closed.json", repair=False)["gpu_seconds"])
    starts, ends = marks(store, wave, "starts"), marks(store, wave, "ends")
    total = 0.0
    for (place, index, restart), name in starts.items():
        with contextlib.suppress(CorruptFile):
            start = store.read_record(name, repair=False)
            if start["gpus"]:
                end = time.time()
                if (mark := ends.get((place, index, restart))) is not None:
                    end = store.read_record(mark, repair=False)["time"]
                elif (requeued := starts.get((place, index, restart + 1))) is not None:  # it left no mark of its end
                    end = store.read_record(requeued, repair=False)["started"]
                total += start["gpus"] * max(0.0, end - start["started"])
    return total
