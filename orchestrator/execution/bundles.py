"""Missing work as bundles: steps that one worker does together because they share a network or their input."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.execution.protocol import Bundle
from orchestrator.execution.retries import Decision
from orchestrator.plan.model import StoredPlan
from orchestrator.tasks.task import KINDS, kind_of

Todo = Mapping[str, "list[int] | None"]
Step = tuple[str, tuple[int, ...] | None]
Size = Callable[[StoredPlan, str, int], int]


@dataclass(frozen=True)
class PendingBundle:
    """A bundle, and the digests of the unfinished tasks that it reads."""

    bundle: Bundle
    needs: frozenset[str] = field(default_factory=frozenset)


def bundles(
    plan: StoredPlan, name: str, todo: Todo, unfinished: Container[str], size: Size, decisions: Mapping[str, Decision]
) -> list[PendingBundle]:
    """Bundles of all missing work, each after those that it needs.

    name: of the plan in the store. unfinished: all tasks that are not done, including those in flight. size: how many
    blocks of a stream make a bundle. decisions: how to retry the tasks that have failed.
    """
    streams: dict[str, list[str]] = defaultdict(list)  # stream -> its extract tasks
    scores: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)  # kind and inputs -> tasks
    small: list[str] = []
    for digest in todo:
        task = plan.tasks[digest]
        if task.makes_blocks:
            streams[task.stream] += [digest] if task.stream != digest else []
        elif kind_of(task.kind).scores_cells:
            scores[task.kind, task.inputs].append(digest)
        else:
            small.append(digest)

    def needs(*digests: str) -> frozenset[str]:
        return frozenset(need for digest in digests for need in plan.tasks[digest].inputs if need in unfinished)

    doublings: dict[str, int] = defaultdict(int)  # by memory class
    for digest, decision in decisions.items():
        alike = _memory_class(plan, digest)
        doublings[alike] = max(doublings[alike], decision.doublings)

    def bundle(steps: Sequence[Step], kind: str) -> Bundle:
        retries = [decisions[digest] for digest in dict.fromkeys(digest for digest, _ in steps) if digest in decisions]
        return Bundle(
            tuple(steps),
            name,
            kind,
            _network(plan, steps[0][0]),
            micro_batch=min((d.micro_batch for d in retries if d.micro_batch), default=0),
            doublings=max(doublings[_memory_class(plan, digest)] for digest, _ in steps),
            avoid=tuple(dict.fromkeys(host for d in retries for host in d.avoid)),
            alone=any(d.single for d in retries),
        )

    pending = []
    for digest in sorted(small, key=lambda digest: KINDS.index(plan.tasks[digest].kind)):
        pending.append(PendingBundle(bundle([(digest, None)], plan.tasks[digest].kind), needs(digest)))
    numbers = {stream: _blocks(todo, stream, extracts) for stream, extracts in streams.items()}
    total = sum(map(len, numbers.values()))
    raced = _raced(plan)
    shorter: dict[Any, list[tuple[int, list[Step]]]] = defaultdict(list)  # of raced streams, which can share a bundle
    for stream, extracts in streams.items():
        together = (stream, *extracts)
        single = any(decisions[digest].single for digest in together if digest in decisions)
        length = 1 if single else size(plan, stream, total)
        needed = needs(*together) - {stream}
        kind = plan.tasks[stream if stream in todo else extracts[0]].kind
        for first in range(0, len(numbers[stream]), length):
            several = numbers[stream][first : first + length]
            steps: list[Step] = [
                (digest, (number,)) for number in several for digest in together if number in (todo.get(digest) or ())
            ]
            if len(several) == length or stream not in raced:
                pending.append(PendingBundle(bundle(steps, kind), needed))
            else:
                shorter[_network(plan, stream), kind, needed, length].append((len(several), steps))
    for (_, kind, needed, length), ends in shorter.items():
        pending += [PendingBundle(bundle(steps, kind), needed) for steps in _joined(ends, length)]
    for (kind, inputs), digests in scores.items():
        needed = frozenset(need for need in inputs if need in unfinished)
        pending.append(PendingBundle(bundle([(digest, None) for digest in digests], kind), needed))
    return _in_order(plan, pending)


def _raced(plan: StoredPlan) -> set[str]:
    """The streams of races, which have few blocks at a time."""
    steps = [task for task in plan.tasks.values() if kind_of(task.kind).reads_all]
    return {plan.tasks[source].stream for step in steps for source in step.inputs if source in plan.tasks}


def _joined(ends: Sequence[tuple[int, list[Step]]], length: int) -> Iterator[list[Step]]:
    """The steps of streams with few blocks, together as long as they have at most `length` blocks."""
    together: list[Step] = []
    blocks = 0
    for number, steps in ends:
        if together and blocks + number > length:
            yield together
            together, blocks = [], 0
        together, blocks = [*together, *steps], blocks + number
    yield together


def _in_order(plan: StoredPlan, pending: list[PendingBundle]) -> list[PendingBundle]:
    """First the trainings of extractors, which are short and for which bundles of samples wait; then the encoding of
    images, with the features extracted meanwhile; then the rest. Each comes after those that it needs: samples may need
    what is measured from others.
    """

    def rank(pending: PendingBundle) -> int:
        task = plan.tasks[pending.bundle.steps[0][0]]
        if task.trains == "extractor":
            return 0
        return 1 if kind_of(plan.tasks[task.stream].kind).finite else 2

    ranked = sorted(pending, key=rank)
    makers: dict[str, list[PendingBundle]] = defaultdict(list)
    for each in ranked:
        for digest in dict.fromkeys(digest for digest, _ in each.bundle.steps):
            makers[digest].append(each)
    ordered: dict[int, PendingBundle] = {}
    for each in ranked:
        _add_after_needs(each, makers, ordered)
    return list(ordered.values())


def _add_after_needs(
    pending: PendingBundle, makers: dict[str, list[PendingBundle]], ordered: dict[int, PendingBundle]
) -> None:
    """Add a bundle to `ordered`, by id, after those that make what it needs."""
    if id(pending) in ordered:
        return
    for need in sorted(pending.needs & makers.keys()):
        for maker in makers.pop(need, ()):  # all of them are then in `ordered`
            _add_after_needs(maker, makers, ordered)
    ordered[id(pending)] = pending


def _network(plan: StoredPlan, digest: str) -> str:
    """Digest of the network that samples the stream of a task; "" if there is none."""
    return str(plan.tasks[plan.tasks[digest].stream].params.get("network", ""))


def _memory_class(plan: StoredPlan, digest: str) -> str:
    """The key of tasks that need equal memory: the network that samples, else the kind; each training has its own."""
    kind = plan.tasks[plan.tasks[digest].stream].kind
    return digest if kind_of(kind).distributed else _network(plan, digest) or kind


def without(todo: Todo, in_flight: list[Bundle]) -> dict[str, list[int] | None]:
    """The part of `todo` that is in none of these bundles."""
    whole = {digest for bundle in in_flight for digest, blocks in bundle.steps if blocks is None}
    parts: dict[str, set[int]] = defaultdict(set)
    for bundle in in_flight:
        for digest, blocks in bundle.steps:
            parts[digest].update(blocks or ())
    left: dict[str, list[int] | None] = {}
    for digest, numbers in todo.items():
        if numbers is None:
            if digest not in whole:
                left[digest] = None
        elif rest := [number for number in numbers if number not in parts[digest]]:
            left[digest] = rest
    return left


def units(plan: StoredPlan, bundle: Bundle) -> dict[str, float]:
    """How much of each kind of task a bundle does, in the units of the kind."""
    total: dict[str, float] = defaultdict(float)
    for digest, blocks in bundle.steps:
        total[plan.tasks[digest].kind] += step_units(plan, digest, blocks)
    return total


def step_units(plan: StoredPlan, digest: str, blocks: tuple[int, ...] | None) -> float:
    task = plan.tasks[digest]
    if not task.makes_blocks or blocks is None:
        return 1.0
    stream = plan.tasks[task.stream].params
    last = stream.get("count", math.inf)  # of encode; a stream of samples has no end
    return float(sum(max(0, min(stream["block"], last - number * stream["block"])) for number in blocks))


def _blocks(todo: Todo, stream: str, extracts: list[str]) -> list[int]:
    return sorted({number for digest in (stream, *extracts) for number in todo.get(digest) or ()})
