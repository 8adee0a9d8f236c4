"""Handles of actors. A worker is one actor, or as many as train one network; Ray places those together (PACK: on as few
nodes as it can) or not at all.
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
SETTLE_S = 20.0  # after the first report that a training has ended, to wait for one that names the cause


@dataclass(eq=False)
class ActorHandle:
    remote: Any
    ref: Any  # the call in flight, or None
    about: Mapping[str, Any] = field(default_factory=dict)  # what Actor.hello returned; empty: not up yet

    def where(self) -> dict[str, Any]:
        return {name: self.about[name] for name in ("host", "node", "pid") if name in self.about}


@dataclass(eq=False, kw_only=True)
class WorkerHandle(ActorHandle):
    """The actor that is given bundles. peers: those that train with it. group: the placement group that they share."""

    request: Request
    peers: list[ActorHandle] = field(default_factory=list)
    group: Any = None
    host: str = ""  # "": the actor or one of its peers is not up yet
    node: str = ""
    work: Work | None = None
    stepped: int = 0  # published steps of that bundle
    networks: list[str] = field(default_factory=list)  # that it has loaded, the latest last
    idle_since: float = field(default_factory=time.monotonic)
    ending: End | None = None  # how the bundle ended, unless another process reports a better cause by `settles`
    settles: float = 0.0
    lost: bool = False  # whether `ending` is a peer's death: no other report can say more

    @property
    def actors(self) -> list[ActorHandle]:
        return [self, *self.peers]

    def up(self, actor: ActorHandle, about: Mapping[str, Any]) -> None:
        """Note that an actor is ready. Once all are, each gets its rank and the address of the rendezvous."""
        actor.about = about
        if not all(each.about for each in self.actors):
            return
        if self.peers:
            host = self.about["ip"] if len({each.about["node"] for each in self.actors}) > 1 else "127.0.0.1"
            for rank, each in enumerate(self.actors):
                each.remote.join.remote(environment(rank, len(self.actors), self.about["port"], host))
        self.host, self.node, self.idle_since = self.about["host"], self.about["node"], time.monotonic()

    def expect(self, end: End, lost: bool = False) -> None:
        """Note how the bundle ended; other processes of the training may know the cause better."""
        self.ending, self.lost, self.settles = end, lost, time.monotonic() + SETTLE_S

    def settled(self) -> bool:
        """Whether no better cause than that of `ending` can come: no other report is due, or SETTLE_S has passed."""
        if self.ending is None:
            return False
        reported = self.ref is None and (self.lost or all(peer.ref is None for peer in self.peers))
        return reported or time.monotonic() >= self.settles

    def kill(self) -> None:
        """End the actors. One that cannot be reached may keep running."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for each in self.actors:
            with contextlib.suppress(Exception):
                ray.kill(each.remote)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)


def start(request: Request, avoid: Sequence[str], store: str, options: Mapping[str, Any], plan: str) -> WorkerHandle:
    """Ask Ray for a worker; Ray starts it once there is room. avoid: ids of nodes that a group keeps off."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

    device = "cpu" if not request.gpus and options["device"].startswith("cuda") else options["device"]
    variables = {**ONE_THREAD, **({} if request.gpus else NO_GPU)}
    common = {**request.options(), "max_restarts": 0, "max_task_retries": 0, "runtime_env": {"env_vars": variables}}

    def create(**where: Any) -> tuple[Any, Any]:
        actor_class: Any = ray.remote(Actor).options(**common, **where)
        remote = actor_class.remote(store, {**options, "device": device, "processes": 1}, plan)
        return remote, remote.hello.remote()

    if request.processes == 1:
        return WorkerHandle(*create(), request=request)
    elsewhere = [{"ray.io/node-id": f"!in({','.join(avoid)})"}] * request.processes if avoid else None
    group = placement_group([request.bundle()] * request.processes, "PACK", bundle_label_selector=elsewhere)
    first, *others = [create(scheduling_strategy=Strategy(group, at)) for at in range(request.processes)]
    return WorkerHandle(*first, request=request, peers=[ActorHandle(*other) for other in others], group=group)
