"""Disk space and files: an estimate for a sweep, and the usage of a store by sweep, arm and kind (`nagbench du`)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nag.features.extractor import columns
from nag.registry import name_of
from orchestrator.plan.build import SHARD, images_in
from orchestrator.plan.model import Plan, StoredPlan, behind, behind_tasks
from orchestrator.retention.garbage import File, files
from orchestrator.retention.policy import Plans
from orchestrator.spec.model import Network
from orchestrator.store.store import Store
from orchestrator.tasks import previews

HEAD = 800  # bytes of a record, or of the header of a block


@dataclass(frozen=True)
class Space:
    bytes: int = 0
    files: int = 0

    def __add__(self, other: Space) -> Space:
        return Space(self.bytes + other.bytes, self.files + other.files)

    def __str__(self) -> str:
        return f"{size_text(self.bytes)} in {self.files:,} {'file' if self.files == 1 else 'files'}"


def size_text(size: float) -> str:
    """`980 B`, `4.2 MB`: decimal units, as on disk labels and in `df -H`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@dataclass(frozen=True)
class SpaceEstimate:
    """Space for the cells of a sweep: by kind while everything is there, and `after`, what `keep` leaves. unknown:
    networks and extractors that are not counted, as only their weights tell their shapes. latents: of training images.
    """

    samples: Space
    features: Space
    scores: Space
    after: Space
    unknown: tuple[str, ...]
    latents: Space = Space()

    @property
    def running(self) -> Space:
        return self.samples + self.features + self.scores

    def as_json(self) -> dict[str, Any]:
        named = {"running": self.running, "after": self.after, "latents": self.latents}
        sizes = {key: {"bytes": space.bytes, "files": space.files} for key, space in named.items()}
        return {**sizes, "not_counted": list(self.unknown)}

    def words(self, keep: str) -> str:
        apart = f" ({', '.join(self.unknown)} not counted: only the weights give their sizes)" if self.unknown else ""
        trained = f"Latents to train on: {self.latents}. " if self.latents.files else ""
        text = f"{trained}Disk for its cells: {self.running}{apart}"
        return f"{text}; keep: {keep} leaves {self.after}." if self.after != self.running else f"{text}."


def planned_space(plan: Plan) -> SpaceEstimate:
    """The space for a plan, without networks and references. Only headers of files are read."""
    parts: dict[str, Space] = defaultdict(Space)
    unknown: dict[str, None] = {}
    seen: set[str] = set()
    for planned in plan.cells:
        network = planned.cell.network
        shape = network.shape
        task = plan.tasks[planned.stream]
        block, blocks = task.params["block"], plan.blocks[planned.stream]
        shown = shape if network.stores == "pixels" else images_shape(network)
        if planned.stream not in seen:
            seen.add(planned.stream)
            each = math.prod(shape) * (1 if task.params["stores"] == "pixels" else 2) if shape else 0
            parts["sample"] += Space(blocks * (block * (each + 8) + HEAD), blocks)
            unknown |= {} if shape else {f"samples of {network.name}": None}
        for digest, extractor in zip(planned.extracts, _features(plan), strict=True):
            if digest not in seen:
                seen.add(digest)
                dims = _dims(extractor, shown)
                preview = min(block, previews.COUNT) * 3 * min(shown[1] * shown[2] if shown else 0, previews.SIDE**2)
                parts["extract"] += Space(blocks * (block * (4 * dims + 8) + HEAD) + preview, blocks)
                unknown |= {} if dims else {f"features of {name_of(extractor)}": None}
        for scored in planned.scores:
            if scored.task not in seen:
                seen.add(scored.task)
                score_task = plan.tasks[scored.task]
                parts[score_task.kind] += Space(HEAD + 4 * score_task.params.get("count", 0), 2)
    scores = parts["score"] + parts["measure"]
    records = Space(HEAD * (scores.files // 2), scores.files // 2)
    left = {"samples": (parts["sample"], parts["extract"], scores), "features": (parts["extract"], scores)}
    left |= {"influence": (scores,), "scores": (records,)}
    after = sum(left[plan.sweep.keep], Space())
    return SpaceEstimate(parts["sample"], parts["extract"], scores, after, tuple(unknown), _latents(plan))


def _latents(plan: Plan) -> Space:
    """The space for latents: both flips, mean and deviation, two bytes each."""
    sizes: dict[str, Space] = {}
    for cell in (planned.cell for planned in plan.cells):
        for network in (n for each in (cell.network, *cell.references.values()) for n in each.lineage):
            if network.train is not None and network.autoencoder is not None and (shape := network.shape):
                count = images_in(network, plan.sweep)
                size = Space(count * (8 * math.prod(shape) + 8), -(-count // SHARD))
                sizes[repr((network.data, network.autoencoder))] = size
    return sum(sizes.values(), Space())


def _features(plan: Plan) -> Iterable[Any]:
    return plan.sweep.score.features if plan.sweep.score else ()


def images_shape(network: Network) -> tuple[int, ...] | None:
    """(C, H, W) of decoded samples, or None if unknown."""
    pixels = network.data is not None and network.data.stores == "pixels"
    return network.data.shape if pixels else None


def _dims(extractor: Any, shape: tuple[int, ...] | None) -> int:
    """Columns of all outputs of an extractor; 0 if unknown."""
    return columns(extractor, shape) if shape else 0


@dataclass(frozen=True)
class Usage:
    """Space that a store takes. rows: (name, kind) -> space, by sweep or, for one sweep, by arm; what several of them
    use is counted for each. total: the whole store, each file once.
    """

    rows: Mapping[tuple[str, str], Space]
    total: Space
    shared: Space  # used by several names
    others: Space  # used by none: plans, logs, files set aside, and what `gc` would remove

    def as_json(self, what: str) -> dict[str, Any]:
        rows = [{what: name, "kind": kind, "bytes": s.bytes, "files": s.files} for (name, kind), s in self.rows.items()]
        named = {"total": self.total, "shared": self.shared, "others": self.others}
        return {"rows": rows, **{key: {"bytes": space.bytes, "files": space.files} for key, space in named.items()}}


def usage(store: Store, plan: StoredPlan | None = None) -> Usage:
    """Usage by sweep or, given the plan of one, by arm. A stored plan that cannot be read is skipped."""
    users: dict[str, dict[str, str]] = defaultdict(dict)  # digest -> name -> kind
    if plan is None:
        for each in Plans(store).live(lenient=True):
            for digest, task in each.tasks.items():
                users[digest][each.sweep] = task.kind
    else:
        of_arms = [(planned.arm, behind(plan, planned)) for planned in plan.every_cell]
        of_arms += [(race.arm, behind_tasks(plan, race.steps)) for race in plan.races]
        for arm, digests in of_arms:
            for digest in digests:
                users[digest][arm] = plan.tasks[digest].kind
    rows: dict[tuple[str, str], Space] = defaultdict(Space)
    total = shared = others = Space()
    for file in files(store):
        space = Space(file.bytes, 1)
        total += space
        by = users.get(_digest(file), {})
        for name, kind in by.items():
            rows[name, kind] += space
        shared += space if len(by) > 1 else Space()
        others += Space() if by else space
    return Usage(dict(sorted(rows.items())), total, shared, others)


def _digest(file: File) -> str:
    """The task that a file belongs to; "" if there is none."""
    match file.name.split("/"):
        case ["blocks" | "files" | "attempts" | "leases", digest, *_]:
            return digest
        case ["records", _, name] | ["logs", name]:
            return name.partition(".")[0]
    return ""
