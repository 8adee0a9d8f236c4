"""The actors, as the engine's side knows them: one, or as many as train one network, which Ray places together (PACK:
on as few nodes as it can) or not at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nag.distributed import environment
from orchestrator.backends.local import ONE_THREAD
from orchestrator.backends.ray.actor import Actor
from orchestrator.backends.ray.nodes import Request
from orchestrator.execution.protocol import End, Work

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
SETTLE_S = 20.0  # after the first word of a training's end, until it is ended as far as is known then


@dataclass(eq=False)
class Peer:
    """An actor that trains with another one."""

    remote: Any
    ref: Any  # the call in flight; None: it has nothing to do
    about: Mapping[str, Any] = field(default_factory=dict)  # empty: not up yet

    def where(self) -> dict[str, Any]:
        return {name: self.about[name] for name in ("host", "node", "pid") if name in self.about}


@dataclass(eq=False, kw_only=True)
class Hand(Peer):
    """An actor that the engine gives bundles. `group`: the placement group that it shares with its `peers`."""

    request: Request
    peers: list[Peer] = field(default_factory=list)
    group: Any = None
    host: str = ""  # "": it, or one of its peers, is not up yet
    node: str = ""
    work: Work | None = None
    stepped: int = 0  # steps of that bundle that are published
    networks: list[str] = field(default_factory=list)  # that it has loaded, the latest last
    idle_since: float = field(default_factory=time.monotonic)
    ending: End | None = None  # how the bundle will have ended, unless more is heard of its cause until `settles`
    settles: float = 0.0
    lost: bool = False  # whether `ending` tells of a peer that is gone, which is the best that can be known

    @property
    def all(self) -> list[Peer]:
        return [self, *self.peers]

    def up(self, who: Peer, about: Mapping[str, Any]) -> None:
        """One of the actors is ready. With the last one, all are told which of the training's processes they are."""
        who.about = about
        if not all(each.about for each in self.all):
            return
        if self.peers:
            host = self.about["ip"] if len({each.about["node"] for each in self.all}) > 1 else "127.0.0.1"
            for rank, each in enumerate(self.all):
                each.remote.join.remote(environment(rank, len(self.all), self.about["port"], host))
        self.host, self.node, self.idle_since = self.about["host"], self.about["node"], time.monotonic()

    def expect(self, end: End, lost: bool = False) -> None:
        """The bundle ends, and others of the training may know better why."""
        self.ending, self.lost, self.settles = end, lost, time.monotonic() + SETTLE_S

    def settled(self) -> bool:
        """Whether nothing more is to be heard about `ending`: the first has let go, and it is known who is gone."""
        if self.ending is None:
            return False
        told = self.ref is None and (self.lost or all(peer.ref is None for peer in self.peers))
        return told or time.monotonic() >= self.settles

    def kill(self) -> None:
        """End the actors, wherever they are; one that cannot be reached may still be at work."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for each in self.all:
            with contextlib.suppress(Exception):
                ray.kill(each.remote)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)


def start(request: Request, away: Sequence[str], store: str, options: Mapping[str, Any], plan: str) -> Hand:
    """Ask Ray for what does bundles of this sort. Ray starts it once there is room, a group off the nodes `away`."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

    device = "cpu" if not request.gpus and options["device"].startswith("cuda") else options["device"]
    variables = {**ONE_THREAD, **({} if request.gpus else NO_GPU)}
    asked = {**request.options(), "max_restarts": 0, "max_task_retries": 0, "runtime_env": {"env_vars": variables}}

    def called(**where: Any) -> tuple[Any, Any]:
        made: Any = ray.remote(Actor).options(**asked, **where)
        remote = made.remote(store, {**options, "device": device, "processes": 1}, plan)
        return remote, remote.hello.remote()

    if request.processes == 1:
        return Hand(*called(), request=request)
    elsewhere = [{"ray.io/node-id": f"!in({','.join(away)})"}] * request.processes if away else None
    group = placement_group([request.bundle()] * request.processes, "PACK", bundle_label_selector=elsewhere)
    first, *others = [called(scheduling_strategy=Strategy(group, at)) for at in range(request.processes)]
    return Hand(*first, request=request, peers=[Peer(*other) for other in others], group=group)
