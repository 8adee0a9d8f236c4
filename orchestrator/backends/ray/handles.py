"""Handles of actors, which are in the driver. A worker is one actor, or as many as train one network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nag.distributed import environment
from orchestrator.backends.local import ONE_THREAD
from orchestrator.backends.ray.connection import Connection
from orchestrator.backends.ray.nodes import Request
from orchestrator.execution.protocol import End, Work

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
SETTLE_S = 20.0  # after the first report that a training has ended, to wait for one that names the cause


NUMBERS = itertools.count(1)


@dataclass(eq=False)
class ActorHandle:
    due: bool = True  # whether the answer of a call is
    about: Mapping[str, Any] = field(default_factory=dict)  # what Actor.hello returned; empty: not up yet

    def where(self) -> dict[str, Any]:
        return {name: self.about[name] for name in ("host", "node", "pid") if name in self.about}


@dataclass(eq=False, kw_only=True)
class WorkerHandle(ActorHandle):
    """The actor that is given bundles. peers: those that train with it."""

    connection: Connection
    request: Request
    number: int = field(default_factory=NUMBERS.__next__)
    peers: list[ActorHandle] = field(default_factory=list)
    host: str = ""  # "": the actor or one of its peers is not up yet
    node: str = ""
    work: Work | None = None
    stepped: int = 0  # published steps of that bundle
    moved: float = 0.0  # when it last did something for it
    off: set[str] = field(default_factory=set)  # nodes that were set aside when it was asked for
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
            for rank in range(len(self.actors)):
                self.call(rank, "join", environment(rank, len(self.actors), self.about["port"], host))
        self.host, self.node, self.idle_since = self.about["host"], self.about["node"], time.monotonic()

    def expect(self, end: End, lost: bool = False) -> None:
        """Note how the bundle ended; other processes of the training may know the cause better."""
        self.ending, self.lost, self.settles = end, lost, time.monotonic() + SETTLE_S

    def settled(self) -> bool:
        """Whether no better cause than that of `ending` can come: no other report is due, or SETTLE_S has passed."""
        if self.ending is None:
            return False
        reported = not self.due and (self.lost or not any(peer.due for peer in self.peers))
        return reported or time.monotonic() >= self.settles

    def call(self, rank: int, method: str, *arguments: Any) -> None:
        self.connection.send(order="call", worker=self.number, rank=rank, method=method, arguments=arguments)

    def kill(self) -> None:
        """End the actors. One that cannot be reached may keep running."""
        self.connection.send(order="kill", worker=self.number)


def start(
    connection: Connection,
    request: Request,
    off: Sequence[str],
    store: str,
    options: Mapping[str, Any],
    plan: str,
) -> WorkerHandle:
    """Ask for a worker; Ray starts it once there is room. off: ids of nodes where it may not be."""
    device = "cpu" if not request.gpus and options["device"].startswith("cuda") else options["device"]
    variables = {**ONE_THREAD, **({} if request.gpus else NO_GPU)}
    never = {"max_restarts": 0, "max_task_retries": 0}
    peers = [ActorHandle() for _ in range(request.processes - 1)]
    worker = WorkerHandle(connection=connection, request=request, peers=peers)
    connection.send(
        order="start",
        worker=worker.number,
        processes=request.processes,
        options={**request.options(), **never, "runtime_env": {"env_vars": variables}},
        bundle=request.bundle(),
        off=list(off),
        arguments=[store, {**options, "device": device, "processes": 1}, plan],
    )
    return worker
