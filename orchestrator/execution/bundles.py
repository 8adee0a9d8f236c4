"""What is to do, as bundles: steps that one worker does in one go because they share a network or what they read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.execution.protocol import Bundle
from orchestrator.execution.retries import Decision
from orchestrator.plan.model import Plan
from orchestrator.tasks.task import KINDS, kind_of

Todo = Mapping[str, "list[int] | None"]
Step = tuple[str, tuple[int, ...] | None]
Size = Callable[[Plan, str, int], int]


@dataclass(frozen=True)
class Waiting:
    """A bundle, and the digests of unfinished tasks that it reads."""

    bundle: Bundle
    needs: frozenset[str] = field(default_factory=frozenset)


def bundles(
    plan: Plan, name: str, todo: Todo, open_: Container[str], size: Size, decisions: Mapping[str, Decision]
) -> list[Waiting]:
    """Bundles of all that is to do, in an order in which each comes after what it needs.

    name: of the plan in the store. open_: all that is not done, on its way or not. size: how many blocks of a stream
    make a bundle. decisions: how to try those tasks again that have failed.
    """
    streams: dict[str, list[str]] = defaultdict(list)  # stream -> its extract tasks
    scores: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)  # kind and what they read -> tasks
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
        return frozenset(need for digest in digests for need in plan.tasks[digest].inputs if need in open_)

    doublings: dict[str, int] = defaultdict(int)  # by memory class
    for digest, decision in decisions.items():
        alike = _memory_class(plan, digest)
        doublings[alike] = max(doublings[alike], decision.doublings)

    def bundle(steps: Sequence[Step], kind: str) -> Bundle:
        told = [decisions[digest] for digest in dict.fromkeys(digest for digest, _ in steps) if digest in decisions]
        return Bundle(
            tuple(steps),
            name,
            kind,
            _network(plan, steps[0][0]),
            micro_batch=min((d.micro_batch for d in told if d.micro_batch), default=0),
            doublings=max(doublings[_memory_class(plan, digest)] for digest, _ in steps),
            avoid=tuple(dict.fromkeys(host for d in told for host in d.avoid)),
            alone=any(d.single for d in told),
        )

    found = []
    for digest in sorted(small, key=lambda digest: KINDS.index(plan.tasks[digest].kind)):
        found.append(Waiting(bundle([(digest, None)], plan.tasks[digest].kind), needs(digest)))
    numbers = {stream: _blocks(todo, stream, extracts) for stream, extracts in streams.items()}
    total = sum(map(len, numbers.values()))
    for stream, extracts in streams.items():
        together = (stream, *extracts)
        single = any(decisions[digest].single for digest in together if digest in decisions)
        length = 1 if single else size(plan, stream, total)
        waits = needs(*together) - {stream}
        kind = plan.tasks[stream if stream in todo else extracts[0]].kind
        for first in range(0, len(numbers[stream]), length):
            steps: list[Step] = [
                (digest, (number,))
                for number in numbers[stream][first : first + length]
                for digest in together
                if number in (todo.get(digest) or ())
            ]
            found.append(Waiting(bundle(steps, kind), waits))
    for (kind, inputs), digests in scores.items():
        waits = frozenset(need for need in inputs if need in open_)
        found.append(Waiting(bundle([(digest, None) for digest in digests], kind), waits))
    return _in_order(plan, found)


def _in_order(plan: Plan, found: list[Waiting]) -> list[Waiting]:
    """The short trainings of extractors first, so that sampling can start as soon as a network is trained; then what is
    made while images are encoded, then all that may need either.
    """

    def rank(waiting: Waiting) -> int:
        task = plan.tasks[waiting.bundle.steps[0][0]]
        if task.trains == "extractor":
            return 0
        return 1 if kind_of(plan.tasks[task.stream].kind).finite else 2

    return sorted(found, key=rank)


def _network(plan: Plan, digest: str) -> str:
    """The network with which a task, or the stream that it reads, is sampled; "" where none is."""
    return str(plan.tasks[plan.tasks[digest].stream].params.get("network", ""))


def _memory_class(plan: Plan, digest: str) -> str:
    """What tasks share that need as much memory: the network that samples, else the kind; a training is alone."""
    kind = plan.tasks[plan.tasks[digest].stream].kind
    return digest if kind_of(kind).distributed else _network(plan, digest) or kind


def without(todo: Todo, flying: list[Bundle]) -> dict[str, list[int] | None]:
    """What is to do and in none of these bundles."""
    whole = {digest for bundle in flying for digest, blocks in bundle.steps if blocks is None}
    parts: dict[str, set[int]] = defaultdict(set)
    for bundle in flying:
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


def units(plan: Plan, bundle: Bundle) -> dict[str, float]:
    """How much of each kind a bundle does: tasks, or samples and images."""
    total: dict[str, float] = defaultdict(float)
    for digest, blocks in bundle.steps:
        total[plan.tasks[digest].kind] += step_units(plan, digest, blocks)
    return total


def step_units(plan: Plan, digest: str, blocks: tuple[int, ...] | None) -> float:
    task = plan.tasks[digest]
    if not task.makes_blocks or blocks is None:
        return 1.0
    stream = plan.tasks[task.stream].params
    last = stream.get("count", math.inf)  # of an encode task; streams have no end
    return float(sum(max(0, min(stream["block"], last - number * stream["block"])) for number in blocks))


def _blocks(todo: Todo, stream: str, extracts: list[str]) -> list[int]:
    return sorted({number for digest in (stream, *extracts) for number in todo.get(digest) or ()})
