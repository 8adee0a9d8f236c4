"""From a plan to finished tasks: what is missing, in which bundles, and what to do when one ends. No state of its own:
the records are the state, so to resume, extend or repair a sweep is to run it again, and two engines on one sweep are
safe.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.backends import Backend, Bundle, End, Progress, Step
from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.identity import checksum
from orchestrator.plan import Done, Plan, missing
from orchestrator.store import Store
from orchestrator.tasks import BLOCK_KINDS, ORIGINAL, code_name, code_record, file_name

BLOCKS_A_BUNDLE = 16  # at most; fewer where there is little to do, so that all workers end together
REPAIRS_AT_MOST = 5  # rounds in which a damaged file was found, before it is the storage that is at fault
HELD_WAIT_S = 2.0


class Observer(Protocol):
    """Who watches a run. Units are tasks for train, reference and score, samples for sample and extract."""

    def stages(self, total: dict[str, float]) -> None: ...
    def progress(self, kind: str, done: float) -> None: ...
    def finished(self, kind: str, digest: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Stages:
    """How far each stage of a round is, counting unfinished trainings by their share."""

    plan: Plan
    observer: Observer
    done: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    partial: dict[str, float] = field(default_factory=dict)

    def units(self, digest: str, blocks: Iterable[int] | None) -> float:
        task = self.plan.tasks[digest]
        if task.kind not in BLOCK_KINDS or blocks is None:
            return 1.0
        stream = self.plan.tasks[task.params.get("stream", digest)]
        return float(len(list(blocks)) * stream.params["block"])

    def event(self, event: Progress | Step) -> None:
        kind = self.plan.tasks[event.digest].kind
        if isinstance(event, Step):
            self.partial.pop(event.digest, None)
            if event.blocks is None:
                self.observer.finished(kind, event.digest)
            self.done[kind] += self.units(event.digest, event.blocks)
        elif kind not in BLOCK_KINDS:
            self.partial[event.digest] = event.done / max(1, event.of)
        running = sum(share for digest, share in self.partial.items() if self.plan.tasks[digest].kind == kind)
        self.observer.progress(kind, self.done[kind] + running)


def bundles(plan: Plan, todo: dict[str, list[int] | None], workers: int) -> list[tuple[Bundle, set[str]]]:
    """Bundles of all that is to do, in an order in which each comes after what it needs, with the digests that it
    waits for.
    """
    found: list[tuple[Bundle, set[str]]] = []
    streams: dict[str, list[str]] = defaultdict(list)  # stream -> its extract tasks
    scores: dict[tuple[str, ...], list[str]] = defaultdict(list)  # what they read -> score tasks
    for digest in todo:
        task = plan.tasks[digest]
        if task.kind == "sample":
            streams[digest] = streams[digest]
        elif task.kind == "extract":
            streams[task.params["stream"]].append(digest)
        elif task.kind in ("score", "measure"):
            scores[task.inputs].append(digest)
    small = [digest for digest in todo if plan.tasks[digest].kind in ("train", "reference")]
    # The extractors' short trainings go first: all sampling of a trained network can then start.
    for digest in sorted(small, key=lambda d: (plan.tasks[d].kind != "train", "extractor" not in plan.tasks[d].params)):
        found.append((Bundle(((digest, None),)), {need for need in plan.tasks[digest].inputs if need in todo}))
    total = sum(len(_blocks(todo, stream, extracts)) for stream, extracts in streams.items())
    size = max(1, min(BLOCKS_A_BUNDLE, total // (4 * workers)))
    for stream, extracts in streams.items():
        needs = {need for digest in (stream, *extracts) for need in plan.tasks[digest].inputs}
        waits = {need for need in needs if need in todo and need != stream}
        numbers = _blocks(todo, stream, extracts)
        for first in range(0, len(numbers), size):
            steps = tuple(
                (digest, (number,))
                for number in numbers[first : first + size]
                for digest in (stream, *extracts)
                if number in (todo.get(digest) or ())
            )
            found.append((Bundle(steps, plan.tasks[stream].params["network"]), waits))
    for inputs, digests in scores.items():
        found.append((Bundle(tuple((digest, None) for digest in digests)), {need for need in inputs if need in todo}))
    return found


def _blocks(todo: dict[str, list[int] | None], stream: str, extracts: list[str]) -> list[int]:
    return sorted({number for digest in (stream, *extracts) for number in todo.get(digest) or ()})


def run(plan: Plan, store: Store, backend: Callable[[], Backend], workers: int, observer: Observer) -> dict[str, str]:
    """Do all that is missing. Returns digest -> reason of what failed; what depends on it was not tried.

    Raises EnvironmentProblem when the store cannot be written. What is published by then stays.
    """
    store.open()
    store.create(f"sweeps/{plan.sweep.name}/{checksum(plan.sweep.text.encode())}.yaml", plan.sweep.text.encode())
    _check_goals(plan, store, observer)
    failed: dict[str, str] = {}
    repairs = 0
    started: Backend | None = None
    try:
        while True:
            todo = _reachable(plan, missing(plan, Done(store)), failed)
            if not todo:
                return failed
            _take_in_code(plan, store)
            for digest in todo:
                store.create_record(f"tasks/{digest}.json", plan.tasks[digest].definition())
                _take_in(plan, store, digest)
            started = started or backend()
            ends = _round(plan, store, started, bundles(plan, todo, workers), observer)
            failed |= {end.digest: end.reason for end in ends if end.outcome == "failed"}
            damaged = [end for end in ends if end.outcome == "corrupt"]
            repairs += bool(damaged)
            if repairs > REPAIRS_AT_MOST:
                raise EnvironmentProblem(f"store {store.url} keeps damaging files; the last one: {damaged[0].reason}")
            if any(end.outcome == "held" for end in ends):
                time.sleep(HELD_WAIT_S)  # another engine trains what this one waits for
    finally:
        if started:
            started.cancel()


def _take_in(plan: Plan, store: Store, digest: str) -> None:
    """Copy the user's checkpoint into the store, so that workers, and later runs, need no path of this machine."""
    task = plan.tasks[digest]
    if task.source and not store.exists(file_name(digest, ORIGINAL)):
        store.create(file_name(digest, ORIGINAL), Path(task.source).read_bytes())


def _take_in_code(plan: Plan, store: Store) -> None:
    """Copy the user's own code into the store: what is queued is done with it, whatever he edits meanwhile."""
    for source, code in plan.sweep.code.items():
        for path, data in code.files.items():
            if not store.exists(code_name(source, path)):
                store.create(code_name(source, path), data)
        store.create_record(code_record(source), code.manifest)


def _check_goals(plan: Plan, store: Store, observer: Observer) -> None:
    """Read the records that no task will read any more, so that a damaged one is set aside and made again."""
    done = Done(store)
    for digest in plan.goals:
        if plan.tasks[digest].kind not in BLOCK_KINDS and done.small_done(plan.tasks[digest]):
            try:
                store.read_record(plan.tasks[digest].record_name)
            except CorruptFile as error:
                observer.note(str(error))


def _reachable(plan: Plan, todo: dict[str, list[int] | None], failed: dict[str, str]) -> dict[str, list[int] | None]:
    """What is to do, without what failed in this run and what needs it."""
    left: dict[str, list[int] | None] = {}
    blocked = set(failed)
    for digest, blocks in todo.items():  # inputs come first
        if digest in blocked or blocked.intersection(plan.tasks[digest].inputs):
            blocked.add(digest)
        else:
            left[digest] = blocks
    return left


def _round(
    plan: Plan, store: Store, backend: Backend, work: list[tuple[Bundle, set[str]]], observer: Observer
) -> list[End]:
    stages = Stages(plan, observer)
    total: dict[str, float] = defaultdict(float)
    makers: dict[str, list[int]] = defaultdict(list)  # digest -> handles of the bundles that make it
    open_handles: set[int] = set()
    for bundle, waits in work:
        (handle,) = backend.submit([bundle], [[maker for need in waits for maker in makers[need]]])
        open_handles.add(handle)
        for digest, blocks in bundle.steps:
            makers[digest].append(handle)
            total[plan.tasks[digest].kind] += stages.units(digest, blocks)
    observer.stages(dict(total))
    ends: list[End] = []
    while open_handles:
        for event in backend.poll(timeout_s=0.5):
            if isinstance(event, End):
                open_handles.discard(event.handle)
                ends.append(event)
                _ended(plan, store, event, observer)
            else:
                stages.event(event)
    return ends


def _ended(plan: Plan, store: Store, end: End, observer: Observer) -> None:
    if end.outcome == "environment":
        raise EnvironmentProblem(end.reason)
    if end.outcome == "corrupt":
        observer.note(end.reason)
    if end.outcome == "held":
        observer.note(f"{plan.tasks[end.digest].kind} {end.digest[:12]} is being done by another run; waiting for it")
    if end.outcome == "failed":
        log = str(store.logs / f"{end.digest}.log")
        observer.note(f"{plan.tasks[end.digest].kind} {end.digest[:12]} failed: {end.reason} (log: {log})")
        attempt = {
            "kind": plan.tasks[end.digest].kind,
            "reason": end.reason,
            "traceback": end.traceback,
            "log": log,
            "time": round(time.time(), 3),
        }
        number = len(store.list(f"attempts/{end.digest}")) + 1
        while not store.create_record(f"attempts/{end.digest}/{number:06d}.json", attempt):
            number += 1


def failures(plan: Plan, done: Done, digests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Why these tasks, or tasks that they need, are not done: the last attempt at each that failed."""
    attempts: dict[str, dict[str, Any]] = {}
    pending, seen = list(digests), set[str]()
    while pending:
        digest = pending.pop()
        if digest in seen or done.complete(plan, digest):
            continue
        seen.add(digest)
        pending += plan.tasks[digest].inputs
        if digest in done.attempted:
            names = done.store.list(f"attempts/{digest}")
            with contextlib.suppress(CorruptFile):
                attempts[digest] = done.store.read_record(f"attempts/{digest}/{names[-1]}", repair=False)
    return attempts


__all__ = ["Observer", "bundles", "failures", "run"]
