"""Pack bundles into job arrays: one array per stage, network and class of resources. Pure functions.

An array task gets as many bundles as fill the site's target time, so that starting it costs little. If there is less
to do, the work is spread over as many array tasks as may run at once, as long as each is worth starting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.backends.slurm.settings import Resources, SlurmSettings
from orchestrator.execution.protocol import Bundle, Work

WORTHWHILE_S = 120.0  # starting an array task (10 to 15 s) takes less than an eighth of this

Seconds = Callable[[Bundle], float]
Key = tuple[str, str, Resources, tuple[str, ...], frozenset[str]]


@dataclass(frozen=True)
class ArrayTask:
    """The bundles of one array task, in order, and the engine's handles of them."""

    bundles: tuple[Bundle, ...]
    handles: tuple[int, ...] = ()


@dataclass(frozen=True)
class Array:
    """A job array to queue. after: the arrays, or `array/index`, that must end first."""

    name: str
    kind: str
    network: str
    resources: Resources
    avoid: tuple[str, ...]
    after: tuple[str, ...]
    tasks: tuple[ArrayTask, ...]
    throttle: int
    seconds: float = 0.0  # estimate, of all bundles together

    @property
    def lanes(self) -> int:
        """How many bundles each array task does at the same time."""
        return lanes(self.resources)

    @property
    def gpu_seconds(self) -> float:
        return self.seconds * self.resources.gpus * self.resources.nodes / self.lanes


def lanes(resources: Resources) -> int:
    """How many processes do bundles of their own in an array task."""
    return resources.per_gpu * max(1, resources.gpus) if resources.per_gpu > 1 else 1


@dataclass
class _Group:
    key: Key
    work: list[Work] = field(default_factory=list)
    tasks: list[list[Work]] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)  # handle -> index, before arrays are split


def arrays(
    work: Sequence[Work],
    site: SlurmSettings,
    seconds: Seconds,
    name: Callable[[int], str],
    known: Mapping[int, str],
    most: int,
    request: Callable[[Bundle], Resources] | None = None,
) -> list[Array]:
    """Pack work into the arrays of one wave, each after those that it waits for.

    seconds: estimates the time of a bundle. name: makes the name of an array from its number. known: handles of earlier
    waves -> the array or `array/index` that does them. most: array tasks that an array may have (MaxArraySize).
    request: the resources of a bundle (requests.py); by default those of its stage.
    """
    request = request or functools.partial(_of_stage, site)
    groups: dict[Key, _Group] = {}
    member: dict[int, _Group] = {}  # handle -> its group
    for each in work:
        after = frozenset(
            (_token(member[handle], handle) if handle in member else known[handle])
            for handle in each.after
            if handle in member or handle in known
        )
        bundle = each.bundle
        key = (bundle.kind, bundle.network, request(bundle), tuple(sorted(bundle.avoid)), after)
        group = groups.setdefault(key, _Group(key))
        group.work.append(each)
        member[each.handle] = group
    packed: list[Array] = []
    names: dict[int, list[tuple[str, int]]] = {}  # id of group -> its arrays, and the index of their first array task
    for group in groups.values():
        _pack(group, site, seconds)
        chunks = [group.tasks[at : at + most] for at in range(0, len(group.tasks), most)]
        names[id(group)] = []
        for at, chunk in enumerate(chunks):
            names[id(group)].append((name(len(packed)), at * most))
            kind, network, resources, avoid, _ = group.key
            packed.append(
                Array(
                    name(len(packed)),
                    kind,
                    network,
                    resources,
                    avoid,
                    tuple(sorted(_resolved(group.key[-1], groups, names, most))),
                    tuple(ArrayTask(tuple(w.bundle for w in e), tuple(w.handle for w in e)) for e in chunk),
                    max(1, site.throttle // len(chunks)),
                    sum(seconds(w.bundle) for e in chunk for w in e),
                )
            )
    return packed


def _of_stage(site: SlurmSettings, bundle: Bundle) -> Resources:
    return doubled(site, site.resources(bundle.kind), bundle.doublings)


def doubled(site: SlurmSettings, resources: Resources, doublings: int) -> Resources:
    """These resources, with the memory doubled `doublings` times, up to the site's limit."""
    memory = resources.memory_gb * 2**doublings
    if site.memory_gb_at_most is not None:
        memory = min(memory, site.memory_gb_at_most)
    return replace(resources, memory_gb=memory)


def _token(group: _Group, handle: int) -> str:
    """A placeholder for the array task of a training, or for the whole array of any other bundle, to wait for."""
    place = f"/{handle}" if group.key[0] == "train" else ""
    return f"#{id(group)}{place}"


def _resolved(
    after: Iterable[str], groups: Mapping[Key, _Group], names: Mapping[int, list[tuple[str, int]]], most: int
) -> Iterable[str]:
    """Replace placeholders with names: `array` or `array/index`."""
    by_id = {id(group): group for group in groups.values()}
    for token in after:
        if not token.startswith("#"):
            yield token
            continue
        group_id, _, handle = token[1:].partition("/")
        chunks = names[int(group_id)]
        if not handle:
            yield from (name for name, _ in chunks)
            continue
        index = by_id[int(group_id)].place[int(handle)]
        name, first = chunks[index // most]
        yield f"{name}/{index - first}"


def _pack(group: _Group, site: SlurmSettings, seconds: Seconds) -> None:
    costs = [seconds(work.bundle) for work in group.work]
    several = lanes(group.key[2])
    target = several * min(site.target_minutes * 60, max(sum(costs) / site.throttle / several, WORTHWHILE_S))
    filled, training = 0.0, group.key[0] == "train"
    for work, cost in zip(group.work, costs, strict=True):
        # A training has a process to itself; other bundles follow each other if their micro-batches are equal.
        last = group.tasks[-1][-1].bundle if group.tasks else None
        alike = last is not None and last.micro_batch == work.bundle.micro_batch
        if last is not None and (last.alone or work.bundle.alone):
            alike = False
        if not alike or (len(group.tasks[-1]) >= several if training else filled + cost > target):
            group.tasks.append([])
            filled = 0.0
        group.tasks[-1].append(work)
        group.place[work.handle] = len(group.tasks) - 1
        filled += cost
