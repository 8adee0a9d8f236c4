"""Tasks as a plan is made of them, equal ones merged. Methods are frozen and shared, so identities are computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator import identity
from orchestrator.identity import Outside, content
from orchestrator.published import Published
from orchestrator.sweep import Network
from orchestrator.tasks import BLOCK_KINDS, Task


class Builder:
    """Without `hashes` no checkpoint is read: one that was never read before is then of a content of its own."""

    def __init__(self, hashes: bool = True) -> None:
        self.hashes = hashes
        self.tasks: dict[str, Task] = {}
        self.blocks: dict[str, int] = {}
        self.outside: dict[str, Outside] = {}
        self._identities: dict[int, dict[str, Any]] = {}
        self._networks: dict[int, str] = {}

    def add(
        self, kind: str, params: Mapping[str, Any], inputs: tuple[str, ...] = (), blocks: int = 0, source: str = ""
    ) -> str:
        task = Task(kind, params, inputs, source)
        key = task.digest
        self.tasks.setdefault(key, task)
        if kind in BLOCK_KINDS:
            self.blocks[key] = max(blocks, self.blocks.get(key, 0))
        return key

    def identity(self, instance: Any) -> dict[str, Any]:
        if id(instance) not in self._identities:
            self._identities[id(instance)] = identity.method(instance, compute=self.hashes)
            found = identity.outside(instance, compute=self.hashes)
            self.outside |= {outside.content: outside for outside in found.values()}
        return self._identities[id(instance)]

    def network(self, network: Network) -> str:
        """The digest of the task that makes the network: trains it, or takes it into the store from its file."""
        if id(network) not in self._networks:
            self._networks[id(network)] = self._loaded(network) if network.checkpoint else self._trained(network)
        return self._networks[id(network)]

    def _loaded(self, network: Network) -> str:
        assert network.checkpoint is not None
        params: dict[str, Any] = {"checkpoint": content(network.checkpoint, compute=self.hashes)}
        params |= {key: getattr(network, key) for key in ("family", "heads") if getattr(network, key) is not None}
        return self.add("train", params, source=network.checkpoint)

    def _trained(self, network: Network) -> str:
        params: dict[str, Any] = {"data": self.identity(network.data), "train": training_identity(network.train)}
        if network.init is not None:  # what the network is, its parent says
            parent = self.network(network.init)
            return self.add("train", {**params, "init": parent}, (parent,))
        model, interpolant = self.identity(network.model), self.identity(network.interpolant)
        return self.add("train", {**params, "model": model, "interpolant": interpolant, "predicts": network.predicts})

    def extractor(self, extractor: Any, data: Any) -> dict[str, Any]:
        """The params that name an open extractor: its identity and the digest of its training, if it is trained
        here.
        """
        weights = None
        if extractor.trained:
            weights = self.add("train", {"extractor": self.identity(extractor), "data": self.identity(data)})
        return {"extractor": self.identity(extractor), "weights": weights}

    def decoder(self, decode: Any) -> dict[str, Any]:
        """The identity of an autoencoder. It stands in no table, for there is one."""
        found = identity.outside(decode, compute=self.hashes)
        self.outside |= {outside.content: outside for outside in found.values()}
        contents = {name: outside.content for name, outside in found.items()}
        return {"version": type(decode).VERSION, "fields": {**identity.changed_fields(decode), **contents}}

    def published(self, reference: Published) -> str:
        """The content of a file of statistics, which is fetched first if it is at a URL."""
        place = reference.fetched() if self.hashes else reference.local()
        if place is None:
            return f"unread {reference.path}"
        found = content(place, compute=self.hashes)
        self.outside[found] = Outside(place, found, copied=True)
        return found


def training_identity(training: Any) -> dict[str, Any]:
    return {"version": type(training).VERSION, "fields": identity.changed_fields(training)}
