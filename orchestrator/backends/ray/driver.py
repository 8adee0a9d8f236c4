"""The process that is connected to a cluster (Ray calls it the driver): `python -m orchestrator.backends.ray.driver`.

In, first: {"address", "code": a folder to copy to the nodes, or null}. Then orders: {"order": "start" | "call" |
"kill", and its arguments}. Out: {"event": "nodes"}, first and again every few seconds, or "refused"; then for each call
"answer", or "death" of its actor. An actor is named by its worker's number and its rank in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import uuid
from concurrent.futures import Future
from functools import partial
from typing import Any

from orchestrator.backends.ray.actor import Actor
from orchestrator.backends.ray.in_child import Pipe, errors_of, import_ray

NODES_EVERY_S = 2.0
Name = tuple[int, int]  # worker and rank


def death(error: BaseException) -> dict[str, Any]:
    """What Ray says of an actor that has died, as a message."""
    from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RuntimeEnvSetupError

    return {
        "text": str(error),
        "memory": isinstance(error, OutOfMemoryError),
        "preempted": bool(getattr(error, "preempted", False)),
        "node": isinstance(error, NodeDiedError | ActorUnavailableError),
        "hopeless": bool(getattr(error, "actor_init_failed", False)) or isinstance(error, RuntimeEnvSetupError),
    }


class Driver:
    """The actors, and the orders to them."""

    def __init__(self, ray: Any, pipe: Pipe) -> None:
        self.ray, self.pipe = ray, pipe
        self.actors: dict[Name, Any] = {}
        self.groups: dict[int, Any] = {}

    def start(
        self,
        worker: int,
        processes: int,
        options: dict[str, Any],
        bundle: dict[str, float],
        off: list[str],
        arguments: list[Any],
    ) -> None:
        """Ask Ray for the actors of a worker; Ray starts them once there is room. Several are placed together (PACK: on
        as few nodes as Ray can) or not at all. off: ids of nodes where they may not be.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

        labels = {"ray.io/node-id": f"!in({','.join(off)})"} if off else None
        where: list[dict[str, Any]] = [{"label_selector": labels} if labels else {}]
        if processes > 1:
            selectors = [labels] * processes if labels else None
            group = placement_group([bundle] * processes, "PACK", bundle_label_selector=selectors)
            self.groups[worker] = group
            where = [{"scheduling_strategy": Strategy(group, rank)} for rank in range(processes)]
        for rank, place in enumerate(where):
            actor_class: Any = self.ray.remote(Actor).options(**options, **place)
            self.actors[worker, rank] = actor_class.remote(*arguments)
            self.call(worker, rank, "hello", [])

    def call(self, worker: int, rank: int, method: str, arguments: list[Any]) -> None:
        answer = getattr(self.actors[worker, rank], method).remote(*arguments)
        answer.future().add_done_callback(partial(self._tell, worker, rank, method))

    def _tell(self, worker: int, rank: int, method: str, answer: Future[Any]) -> None:
        error = answer.exception()
        about = {"worker": worker, "rank": rank, "method": method}
        if error is None:
            self.pipe.send(event="answer", **about, answer=answer.result())
        else:
            self.pipe.send(event="death", **about, **death(error))

    def kill(self, worker: int) -> None:
        """End the actors of a worker. One that cannot be reached may keep running."""
        from ray.util.placement_group import remove_placement_group

        for name in [name for name in self.actors if name[0] == worker]:
            with contextlib.suppress(Exception):
                self.ray.kill(self.actors.pop(name))
        group = self.groups.pop(worker, None)
        if group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(group)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        return [{"id": n["NodeID"], "host": n["NodeManagerHostname"], "resources": n["Resources"]} for n in alive]


def main() -> None:
    pipe = Pipe()
    ray = import_ray(lambda problem: pipe.send(event="refused", problem=problem))
    first = pipe.orders.get()
    if first is None:
        os._exit(0)
    try:
        ray.init(
            address=first["address"],
            namespace=f"nagbench-{uuid.uuid4().hex[:8]}",
            runtime_env={"working_dir": first["code"]} if first["code"] else {},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:  # noqa: BLE001  (the engine says what it means)
        pipe.send(event="refused", errors=errors_of(error))
        os._exit(0)
    driver = Driver(ray, pipe)
    look_at = 0.0
    while True:
        if time.monotonic() >= look_at:
            pipe.send(event="nodes", nodes=driver.nodes())
            look_at = time.monotonic() + NODES_EVERY_S
        try:
            order = pipe.orders.get(timeout=max(0.0, look_at - time.monotonic()))
        except queue.Empty:
            continue
        if order is None:
            ray.shutdown()
            os._exit(0)
        getattr(driver, order.pop("order"))(**order)


if __name__ == "__main__":
    main()
