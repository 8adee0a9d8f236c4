"""Build the tasks of a plan; equal ones are merged. Methods are frozen and shared, so identities are computed once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nag.cache import folder, keep
from nag.datasets.image_folder import ImageFolder
from orchestrator import identity
from orchestrator.errors import BadInput
from orchestrator.identity import Absent, Outside, canonical, content, digest
from orchestrator.plan.reported import Reported
from orchestrator.spec.model import REFERENCE_ROWS, Network, Sweep
from orchestrator.spec.overrides import mistake_at
from orchestrator.spec.reference_file import Published
from orchestrator.tasks.task import Task

BLOCKS_AT_MOST = 2_000_000  # of a plan: each is a file, and several numbers in memory
SHARD = 1_000  # images in a block of latents: at 256 x 256 it has 65 MB


class TaskBuilder:
    """hashes: False reads no checkpoint; one that was never read then counts as a content of its own. sweep: the one to
    plan, for errors in its file; None if there is no network.
    """

    def __init__(self, hashes: bool = True, sweep: Sweep | None = None) -> None:
        self.hashes, self.sweep = hashes, sweep
        self.tasks: dict[str, Task] = {}
        self.blocks: dict[str, int] = {}
        self.outside: dict[tuple[str, bool], Outside] = {}  # by content, and whether it is copied
        self._identities: dict[int, dict[str, Any]] = {}
        self._networks: dict[int, str] = {}
        self._plain: dict[int, Any] = {}
        self.reported: dict[tuple[int, int, str], Reported] = {}  # by metric and extractor, one object for all cells
        self.scorings: dict[tuple[int, int], Any] = {}  # by network and extractor: what scores of their cells share
        self.encoded: dict[str, str] = {}  # by the identity of a data set's images: the task that encodes them

    def check_size(self, path: str) -> None:
        """Raise BadInput if the sweep at this path has too many blocks to handle."""
        if (blocks := sum(self.blocks.values())) > BLOCKS_AT_MOST:
            raise BadInput(
                f"{path}: its cells need {blocks:,} blocks, each a file; at most {BLOCKS_AT_MOST:,} are allowed. Raise "
                "sample.block, or make several sweeps of it."
            )

    def add(
        self, kind: str, params: Mapping[str, Any], inputs: tuple[str, ...] = (), blocks: int = 0, source: str = ""
    ) -> str:
        task = Task(kind, params, inputs, source)
        key = task.digest
        self.tasks.setdefault(key, task)
        if task.makes_blocks:
            self.blocks[key] = max(blocks, self.blocks.get(key, 0))
        return key

    def identity(self, instance: Any) -> dict[str, Any]:
        if id(instance) not in self._identities:
            self._identities[id(instance)] = identity.method_identity(instance, compute=self.hashes)
            outside = identity.outside(instance, compute=self.hashes)
            for each in outside.values():
                self.reads(each)
        return self._identities[id(instance)]

    def network(self, network: Network) -> str:
        """The digest of the task that makes the network: trains it, or imports its file into the store."""
        if id(network) not in self._networks:
            self._networks[id(network)] = self._loaded(network) if network.checkpoint else self._trained(network)
        return self._networks[id(network)]

    def _loaded(self, network: Network) -> str:
        assert network.checkpoint is not None
        here = os.path.exists(network.checkpoint)
        file_content = content(network.checkpoint, compute=self.hashes) if here else self._absent(network.checkpoint)
        params: dict[str, Any] = {"checkpoint": file_content}
        params |= dict(network.given) | ({"family": network.family} if network.family else {})
        if network.model is not None and network.convention is not None:
            params |= self._module(network) | {"shape": list(network.shape or ()), "num_classes": network.num_classes}
        if file_content.endswith("/"):  # a folder, which is copied into the store as an asset
            self.reads(Outside(network.checkpoint, file_content, copied=True))
        is_file = here and not file_content.endswith("/")
        return self.add("train", params, source=network.checkpoint if is_file else "")

    def _module(self, network: Network) -> dict[str, Any]:
        """The params that say what a network's module is, and how it is called."""
        model, interpolant = self.identity(network.model), self.identity(network.interpolant)
        params: dict[str, Any] = {"model": model, "interpolant": interpolant, "predicts": network.predicts}
        if network.convention is not None:
            precondition = network.convention.precondition
            params["convention"] = {"time": network.convention.time}
            if precondition is not None:
                params["convention"]["precondition"] = self.identity(precondition)
        return params

    def _absent(self, path: str) -> str:
        """A placeholder for the content of a file that is not on this machine: the plan can be made, but not run."""
        absent = Absent.at(path, copied=True)
        self.reads(absent)
        return absent.content

    def reads(self, outside: Outside) -> None:
        """Note an input of tasks. One file may be both a data set, read in place, and a reference, copied."""
        self.outside[outside.content, outside.copied] = outside

    def _trained(self, network: Network) -> str:
        data, needs = self.states(network)
        params: dict[str, Any] = {"data": data, "train": training_identity(network.train)}
        if network.init is not None:  # its parent defines what the network is
            parent = self.network(network.init)
            return self.add("train", {**params, "init": parent}, (parent, *needs))
        return self.add("train", params | self._module(network), needs)

    def images(self, data: Any) -> dict[str, Any]:
        """The identity of the images of a data set, whether or not a training flips them."""
        if isinstance(data, ImageFolder) and data.flip:
            data = self._plain.setdefault(id(data), replace(data, flip=False))
        return self.identity(data)

    def states(self, network: Network) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The identity of a network's training data, images or latents, and the tasks that the data need."""
        if network.autoencoder is None:
            return self.identity(network.data), ()
        images, count = self.images(network.data), images_in(network, self.sweep)
        params = {"data": images, "autoencoder": self.identity(network.autoencoder), "count": count, "block": SHARD}
        encode = self.add("encode", params, (), -(-count // SHARD))
        self.encoded[canonical(images)] = encode
        return {"encode": encode, "flip": network.data.flip}, (encode,)

    def taken_while_encoded(self, opened: Mapping[str, Any], images: Mapping[str, Any]) -> tuple[str, ...]:
        """The task that takes an extractor's outputs on images in the pass that encodes them; () if none does."""
        encode = self.encoded.get(canonical(images))
        if encode is None:
            return ()
        needs = (opened["weights"],) if opened["weights"] else ()
        return (self.add("extract", {**opened, "stream": encode}, needs, self.blocks[encode]),)

    def extractor(self, extractor: Any, data: Any) -> dict[str, Any]:
        """The params that name an open extractor: its identity and the digest of its training, if it is trained
        here.
        """
        weights = None
        if extractor.trained:
            weights = self.add("train", {"extractor": self.identity(extractor), "data": self.identity(data)})
        return {"extractor": self.identity(extractor), "weights": weights}

    def reference(
        self, opened: Mapping[str, Any], held: Mapping[str, Any], rows: int, images: int | None = None
    ) -> str:
        """The task that makes a reference: an open extractor's outputs on `held`, which is {"data": ...} or, for a
        published file, {"statistics": ..., "moments": ...}. images: only so many of it count.
        """
        needs: tuple[str, ...] = (opened["weights"],) if opened["weights"] else ()
        needs += self.taken_while_encoded(opened, held["data"]) if "data" in held else ()
        kept = {"rows": rows} if rows != REFERENCE_ROWS else {}
        kept |= {"images": images} if images is not None else {}
        return self.add("reference", {**opened, **held, **kept}, needs)

    def published(self, reference: Published) -> str:
        """The content of a file of statistics, which is fetched first if it is at a URL."""
        if not reference.is_url and reference.local() is None:
            return self._absent(reference.path)
        place = reference.fetched() if self.hashes else reference.local()
        if place is None:
            return f"unread {reference.path}"
        file_content = content(place, compute=self.hashes)
        self.reads(Outside(place, file_content, copied=True))
        return file_content


def training_identity(training: Any) -> dict[str, Any]:
    return {"version": type(training).VERSION, "fields": identity.changed_fields(training)}


def images_in(network: Network, sweep: Sweep | None) -> int:
    """How many images a network is trained on, without flips; cached by the data set's identity, because listing a
    million names takes seconds. If they are not on this machine: the size of the official split, or else one shard.

    Raises SpecError, at the place in the sweep's file, if they are not a valid data set.
    """
    from nag.datasets.dataset import originals

    data = network.data
    kept = folder("counts") / digest(identity.method_identity(data, compute=False))
    with contextlib.suppress(OSError, ValueError):
        return int(kept.read_text())
    try:
        count = originals(data.open("train"))
    except FileNotFoundError:
        official = data.official
        return (official.train or max(official.total)) if official else SHARD
    except (OSError, ValueError) as error:
        file, text, overrides = (sweep.path, sweep.text, sweep.overrides) if sweep else ("", "", ())
        raise mistake_at(file, text, ("networks", network.name, "data"), f"{error}.", overrides) from error
    if isinstance(data, ImageFolder):  # others are counted quickly
        keep(kept, str(count))
    return count
