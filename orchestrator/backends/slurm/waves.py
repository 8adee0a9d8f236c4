"""What was queued, as files of the store: enough for another process, on another host, to go on from.

waves/<sweep>/<number>/wave.json            what an engine queued in one go; who creates the number has it
waves/<sweep>/<number>/<array>.json         an array: its job name, what it waits for, the bundles of each element
waves/<sweep>/<number>/<array>.job.json     the id that Slurm gave it
waves/<sweep>/<number>/starts/<array>-<element>-<restart>.json    an element began
waves/<sweep>/<number>/ends/<array>-<element>-<restart>.json      an element ended by itself, and how
waves/<sweep>/<number>/closed.json          an engine has taken in every end
waves/<sweep>/<number>/stop.json            the user ended it (`nagbench cancel`, or a file STOP)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.backends import Bundle
from orchestrator.backends.slurm.arrays import Array, Element
from orchestrator.errors import CorruptFile
from orchestrator.site import Resources
from orchestrator.store import Store


@dataclass(frozen=True)
class Wave:
    sweep: str
    number: int
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"waves/{self.sweep}/{self.number:06d}"

    def array_name(self, place: int) -> str:
        return f"{self.folder}/{place:03d}.json"

    def job_name(self, place: int) -> str:
        return f"{self.folder}/{place:03d}.job.json"

    def mark(self, kind: str, place: int, element: int, restart: int) -> str:
        return f"{self.folder}/{kind}/{place:03d}-{element:06d}-{restart:03d}.json"


def waves(store: Store, sweep: str, *, closed: bool = False) -> list[Wave]:
    """The waves of a sweep, oldest first; those that are closed only if asked for."""
    found = []
    for name in store.list(f"waves/{sweep}"):
        wave = Wave(sweep, int(name))
        if not closed and store.exists(f"{wave.folder}/closed.json"):
            continue
        with contextlib.suppress(CorruptFile):  # the wave whose number was taken, and no more
            wave = Wave(sweep, int(name), store.read_record(f"{wave.folder}/wave.json", repair=False))
            found.append(wave)
    return found


def begin(store: Store, sweep: str, record: Mapping[str, Any]) -> Wave:
    """A new wave, under the next free number."""
    names = store.list(f"waves/{sweep}")
    wave = Wave(sweep, int(names[-1]) + 1 if names else 1, record)
    while not store.create_record(f"{wave.folder}/wave.json", record):
        wave = Wave(sweep, wave.number + 1, record)
    return wave


def write_array(store: Store, wave: Wave, place: int, array: Array) -> None:
    store.create_record(wave.array_name(place), {**_flat(array), "wave": wave.number, "sweep": wave.sweep})


def read_array(store: Store, name: str) -> Array:
    """An array of the store. Raises MissingFile or CorruptFile."""
    found = store.read_record(name, repair=False)
    digests: list[str] = found["digests"]
    elements = tuple(Element(tuple(_bundle(digests, each, found) for each in element)) for element in found["elements"])
    return Array(
        found["name"],
        found["kind"],
        found["network"],
        Resources(**found["resources"]),
        tuple(found["avoid"]),
        tuple(found["after"]),
        elements,
        found["throttle"],
        found["seconds"],
    )


def _flat(array: Array) -> dict[str, Any]:
    """An array as JSON; each digest is written once."""
    bundles = [bundle for element in array.elements for bundle in element.bundles]
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
            [[b.micro_batch, b.doublings, [[digests[d], _numbers(n)] for d, n in b.steps]] for b in element.bundles]
            for element in array.elements
        ],
    }


def _numbers(blocks: Sequence[int] | None) -> list[int] | None:
    return None if blocks is None else list(blocks)


def _bundle(digests: Sequence[str], flat: Sequence[Any], array: Mapping[str, Any]) -> Bundle:
    micro_batch, doublings, steps = flat
    return Bundle(
        tuple((digests[place], None if blocks is None else tuple(blocks)) for place, blocks in steps),
        array["plan"],
        array["kind"],
        array["network"],
        micro_batch,
        doublings,
        tuple(array["avoid"]),
    )


def marks(store: Store, wave: Wave, kind: str) -> dict[tuple[int, int, int], str]:
    """The marks of a wave: (array, element, restart) -> name."""
    found = {}
    for name in store.list(f"{wave.folder}/{kind}"):
        place, element, restart = map(int, name.removesuffix(".json").split("-"))
        found[place, element, restart] = f"{wave.folder}/{kind}/{name}"
    return found


def newest_marks(store: Store, wave: Wave, kind: str) -> dict[tuple[int, int], tuple[int, str]]:
    """(array, element) -> the highest restart that has such a mark, and the mark's name."""
    return {
        (place, element): (restart, name)
        for (place, element, restart), name in sorted(marks(store, wave, kind).items())
    }
