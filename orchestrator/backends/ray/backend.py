"""Run bundles on a Ray cluster, or on a private Ray instance on this machine.

A worker is an actor with a GPU (or a fraction of one, or a CPU) that keeps its networks loaded and does one bundle at a
time. Tasks without a GPU go to actors that see none. Each actor has at most one call in flight. Ray retries nothing
(max_restarts and max_task_retries are 0): the engine gets the cause of each failure and decides.

A training by several processes has one actor for each, on as few nodes as possible; they end with it. Ray Train is not
used: it needs pyarrow and pandas on every node and brings its own checkpoints, retries and process group, so training
would differ from training on Slurm.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from orchestrator.backends.local import BLOCKS_A_BUNDLE
from orchestrator.backends.ray.aside import ALL, Aside
from orchestrator.backends.ray.connection import Connection
from orchestrator.backends.ray.handles import ActorHandle, WorkerHandle, start
from orchestrator.backends.ray.nodes import GB, RayNode, Request, capacity, describe_nodes, nodes_to_avoid
from orchestrator.backends.ray.ready_queue import ReadyQueue
from orchestrator.backends.ray.settings import RaySettings, RayWorker
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work, event_of, message_of
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import LOADED_AT_MOST, Options
from orchestrator.tasks.task import kind_of, stage_of

ROOM_S = 15.0  # an actor that is not up by then is taken to wait for room on a node
IDLE_S = 30.0  # a worker without work is dismissed after this time
TURN_S = 10.0  # an actor without messages answers after this time
GATHER_S = 0.5  # an actor collects messages for this long, or longer if there are many actors
ANSWERS_A_S = 200.0  # of all actors together
FAILED_STARTS_AT_MOST = 8  # in a row
FIRST_DOUBLING_GB = 4.0  # is doubled if the site sets no memory
PEER_FAILED = "PeerFailed: "  # nag.distributed's error in a process whose peer has gone
LOW = re.compile(r"running low on memory|NODE_OUT_OF_MEMORY")  # Ray's words if it killed an actor to free memory


class Ray:
    """address: of the cluster; None starts a private instance with `cpus` CPUs. note: for what the user should know."""

    def __init__(
        self,
        store: Store,
        options: Options,
        settings: RaySettings | None = None,
        address: str | None = None,
        cpus: int = 1,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store, self.settings, self.note = store, settings or RaySettings(), note
        self.visible_after_s = self.settings.visible_after_s if address else 0.0
        processes = max(options.processes, self.settings.processes)
        self.options = dataclasses.replace(options, processes=processes, visible_after_s=self.visible_after_s)
        self.url = store.root if store.local else store.url  # absolute: actors run in other folders
        self.connection = Connection(address, cpus, self.settings.token_file, self.settings.python)
        self.nodes = [RayNode(**node) for node in self.connection.first["nodes"]]
        self.has_gpus = any(node.resources.get("GPU") for node in self.nodes)
        self.queue = ReadyQueue()
        self.workers: list[WorkerHandle] = []
        self.unplaceable: dict[Request, float] = {}  # requests that no node can hold -> since when
        self.failed_starts, self.aside = 0, Aside()
        self.waiting: set[Hashable] = set()  # requests for which there is no room, as the user was told
        self.plan = ""
        self.skipped: list[int] = []  # bundles whose inputs had failed when they were submitted

    # Resources.

    def request(self, bundle: Bundle) -> Request:
        """The resources of the worker for a bundle."""
        on_cpu = stage_of(bundle.kind) in self.settings.cpu_stages
        settings: RayWorker = self.settings.cpu_worker if on_cpu else self.settings.worker
        gpus = settings.gpus if settings.gpus is not None else float(self.has_gpus and self.options.device != "cpu")
        memory = int((settings.memory_gb or 0) * GB)
        custom = tuple(sorted(settings.resources.items()))
        processes = self.options.processes if kind_of(bundle.kind).distributed else 1
        avoid = bundle.avoid if processes > 1 else ()
        gpu_type = settings.gpu_type or ""
        request = Request(0.0 if on_cpu else gpus, settings.cpus, memory, gpu_type, custom, processes, avoid)
        if bundle.doublings:
            doubled = int((settings.memory_gb or FIRST_DOUBLING_GB) * GB) << bundle.doublings
            request = dataclasses.replace(request, memory=min(doubled, self._memory_at_most(request)))
        return request

    def _memory_at_most(self, request: Request) -> int:
        """The site's limit for a process; without one, the most that the nodes can give to all processes at once."""
        if self.settings.memory_gb_at_most is not None:
            return int(self.settings.memory_gb_at_most * GB)
        have = [int(node.resources.get("memory", 0)) for node in self.nodes]
        shares = {memory // number for memory in have for number in range(1, request.processes + 1)}
        return max((m for m in shares if capacity(dataclasses.replace(request, memory=m), self.nodes)), default=0)

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        workers = self._at_most(self.request(Bundle((), kind="sample")))
        return max(1, min(BLOCKS_A_BUNDLE, blocks // (4 * max(1, workers))))

    def _at_most(self, request: Request) -> int:
        """How many workers for a request there may be: as many as fit, or as the site says. One waits for room if there
        is none, so that a cluster that can grow sees the demand.
        """
        now = time.monotonic()
        fits, off = capacity(request, self.aside.usable(self.nodes, now)), self.aside.off(now)
        if not fits and off:
            return 0  # until a node is no longer set aside
        return max(1, fits if self.settings.workers is None else self.settings.workers // request.processes)

    # Called by the engine.

    def adopt(self) -> list[Bundle]:
        return []

    def submit(self, work: Sequence[Work]) -> None:
        for each in work:
            self.plan = each.bundle.plan
            self.skipped += self.queue.add(each, self.request(each.bundle))

    def poll(self, timeout_s: float) -> list[Event]:
        events = self._dispatch()
        for message in self.connection.receive(0 if events else timeout_s):
            events += self._handle(message)
        return events + self._settled() + self._dispatch()

    def close(self) -> None:
        for worker in list(self.workers):
            self._dismiss(worker)
        self.connection.close()

    # Messages of the actors.

    def _handle(self, message: dict[str, Any]) -> list[Event]:
        if message["event"] == "nodes":
            self._see_nodes([RayNode(**node) for node in message["nodes"]])
            return self._stalled()
        worker = next((each for each in self.workers if each.number == message["worker"]), None)
        if worker is None:  # dismissed before this came
            return []
        actor = worker.actors[message["rank"]]
        if message["event"] == "death":
            return self._died(worker, actor, message)
        if message["method"] == "join":
            return []
        actor.due = False
        if message["method"] == "hello":
            return self._is_up(worker, actor, message["answer"])
        return self._receive(worker, message["answer"]) if actor is worker else self._receive_from_peer(worker, message)

    def _receive(self, worker: WorkerHandle, answer: Sequence[dict[str, Any]]) -> list[Event]:
        """Handle what a worker's first actor tells of its bundle."""
        events: list[Event] = []
        worker.moved = time.monotonic() if answer else worker.moved
        for message in answer:
            if message["event"] == "busy":
                continue
            event = event_of(message)
            worker.stepped += isinstance(event, Step)
            if not isinstance(event, End):
                events.append(event)
            elif not (worker.peers and PEER_FAILED in event.reason):
                events += self._ended(worker, event)
            elif not worker.lost:
                worker.expect(event)
        if worker.work is not None and not any(message["event"] == "end" for message in answer):
            self._start_turn(worker, None)
        return events

    def _receive_from_peer(self, worker: WorkerHandle, message: dict[str, Any]) -> list[Event]:
        """Handle the end of another process of a training. Its error counts if the first process reports none."""
        end = event_of(message["answer"][-1])
        if isinstance(end, End) and end.outcome != "done" and worker.ending is None:
            worker.expect(end)
        return []

    def _is_up(self, worker: WorkerHandle, actor: ActorHandle, answer: dict[str, Any]) -> list[Event]:
        if answer["problem"]:
            problem = f"on node {answer['host']} of the Ray cluster: {answer['problem']}"
            self._dismiss(worker)
            self.aside.broken.add(answer["node"])
            if not capacity(worker.request, self.aside.working(self.nodes)):
                raise EnvironmentProblem(problem)
            self.note(f"{problem}; no worker is started there any more")
            return []
        worker.up(actor, answer)
        self.aside.up(answer["node"])
        self.failed_starts = 0
        return []

    def _settled(self) -> list[Event]:
        ended = [(worker, worker.ending) for worker in self.workers if worker.ending is not None and worker.settled()]
        return [event for worker, end in ended for event in self._ended(worker, end)]

    def _start_turn(self, worker: WorkerHandle, message: dict[str, Any] | None) -> None:
        worker.due = True
        wait_s = min(TURN_S, self.settings.stalled_after_s / 3)
        worker.call(0, "turn", message, wait_s, max(GATHER_S, len(self.workers) / ANSWERS_A_S))

    def _ended(self, worker: WorkerHandle, end: End) -> list[Event]:
        worker.work, worker.idle_since = None, time.monotonic()
        if worker.peers:
            self._dismiss(worker)
        if end.outcome == "failed":
            end = dataclasses.replace(end, details={**worker.where(), **(end.details or {})})
        skipped = self.queue.end(end.handle, end.outcome)
        return [end, *(End(handle, "skipped") for handle in skipped)]

    def _dismiss(self, worker: WorkerHandle) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        worker.kill()

    def _died(self, worker: WorkerHandle, dead: ActorHandle, death: Mapping[str, Any]) -> list[Event]:
        """Handle a death. Without its first actor a worker has lost its bundle; after a peer's death, the first actor
        has yet to notice and stop.
        """
        work = worker.work
        dead.due = False
        if dead is worker or work is None:
            self._dismiss(worker)
        if work is None:
            self._failed_start(death)
            return []
        cause, reason = cause_of_death(death, dead.about["host"])
        at = work.bundle.steps[min(worker.stepped, len(work.bundle.steps) - 1)][0]
        full = worker.request.memory and worker.request.memory >= self._memory_at_most(worker.request)
        details = dead.where() | ({"at_memory_bound": True} if cause == "host_memory" and full else {})
        end = End(work.handle, "failed", at, reason, cause=cause, details=details)
        if dead is worker:
            return self._ended(worker, end)
        worker.expect(end, lost=True)
        return []

    def _failed_start(self, death: Mapping[str, Any]) -> None:
        """Set the node aside for a while, longer each time. Raises EnvironmentProblem after many in a row."""
        node = next((node for node in self.nodes if node.id in death["text"]), None)
        wait = self.aside.failed(node.id if node else ALL, time.monotonic())
        if wait is None and not death["hopeless"]:
            return
        self.failed_starts += 1
        lines = [line for line in death["text"].splitlines() if line.strip()]
        where = f"on node {node.host} " if node else ""
        if death["hopeless"] or self.failed_starts > FAILED_STARTS_AT_MOST:
            raise EnvironmentProblem(
                f"workers cannot start {where}of the Ray cluster at {self.connection.address}: {lines[-1]}"
            )
        reason = cause_of_death(death, node.host if node else "of it")[1]
        self.note(f"a worker did not start {where}of the Ray cluster: {reason}; there again in {wait:.0f} s")

    # Scheduling.

    def _dispatch(self) -> list[Event]:
        """Give every idle worker a bundle, start workers if there is more to do, dismiss those that take up room."""
        events: list[Event] = [End(handle, "skipped") for handle in self.skipped]
        for handle in self.skipped:
            events += [End(other, "skipped") for other in self.queue.end(handle, "skipped")]
        self.skipped = []
        holders = Counter(network for worker in self.workers for network in worker.networks)
        for worker in self.workers:
            if worker.host and worker.work is None and not worker.due:
                self._give(worker, holders)
        off = self.aside.off(time.monotonic())
        for worker in [each for each in self.workers if not each.host and each.off - off]:
            self._dismiss(worker)  # it waits for room, but not on a node that may be used again
        for request in self.queue.requests_ready():
            assert isinstance(request, Request)
            alike = [worker for worker in self.workers if worker.request == request]
            starting = sum(not worker.host for worker in alike)
            wanted = min(self.queue.count(request) - starting, self._at_most(request) - len(alike))
            for _ in range(wanted):
                options, avoid = dataclasses.asdict(self.options), nodes_to_avoid(request, self.nodes)
                made = start(self.connection, request, [*avoid, *off], self.url, options, self.plan)
                made.off = off
                self.workers.append(made)
        self._dismiss_idle()
        return events

    def _give(self, worker: WorkerHandle, holders: Counter[str]) -> None:
        def may(work: Work) -> bool:
            if worker.peers or worker.host not in work.bundle.avoid:  # peers were placed off the nodes to avoid
                return True
            return not capacity(worker.request, [node for node in self.nodes if node.host not in work.bundle.avoid])

        work = self.queue.take(worker.request, worker.networks, holders, may)
        if work is None:
            return
        worker.work, worker.stepped, worker.moved = work, 0, time.monotonic()
        network = work.bundle.network
        if network:
            worker.networks = [*(n for n in worker.networks if n != network), network][-LOADED_AT_MOST["network"] :]
            holders[network] += 1
        message = message_of(work.handle, work.bundle)
        self._start_turn(worker, message)
        for rank, peer in enumerate(worker.peers, start=1):
            peer.due = True
            worker.call(rank, "turn", message, 0.0, None)  # answers when the bundle ends

    def _dismiss_idle(self) -> None:
        """Dismiss workers without work if others wait for room, or after they have been idle for IDLE_S."""
        now, ready = time.monotonic(), self.queue.requests_ready()
        without_room = any(self._has_no_room(request, now) for request in ready)
        for worker in list(self.workers):
            unused = worker.work is None and worker.request not in ready
            if unused and (without_room or now - worker.idle_since > IDLE_S):
                self._dismiss(worker)

    def _has_no_room(self, request: Hashable, now: float) -> bool:
        """Whether no worker for a request is up, and the first has been starting for ROOM_S."""
        workers = [worker for worker in self.workers if worker.request == request]
        return bool(workers) and not any(worker.host for worker in workers) and now - workers[0].idle_since > ROOM_S

    def _see_nodes(self, nodes: list[RayNode]) -> None:
        """Update the list of nodes. Raises EnvironmentProblem for a request that none of them could hold for long."""
        now, self.nodes = time.monotonic(), nodes
        alive = {node.id for node in self.nodes}
        for worker in list(self.workers):
            there = alive.issuperset(actor.about.get("node", "") for actor in worker.actors)
            if worker.work is None and worker.host and not there:
                self._dismiss(worker)
        left, working = self.queue.requests_left(), self.aside.working(self.nodes)
        unplaceable = [r for r in left if isinstance(r, Request) and not capacity(r, working)]
        self.unplaceable = {request: self.unplaceable.get(request, now) for request in unplaceable}
        for request, since in self.unplaceable.items():
            who, problem = "no node", f"can hold a worker of {request}"
            if request.processes > 1:
                who = "the nodes together"
                problem = f"cannot hold {request.processes} processes that train one network, each of {request}"
            words = f"{who} of the Ray cluster at {self.connection.address} {problem}; it has {describe_nodes(working)}"
            if now - since >= self.settings.wait_s:
                raise EnvironmentProblem(words)
            if since == now:
                self.note(f"{words}; waiting {self.settings.wait_s:g} s (wait_s) for a node to join")
        self._tell_of_room(now)

    def _tell_of_room(self, now: float) -> None:
        """Tell the user, once, that others have the room on the cluster."""
        full = {request for request in self.queue.requests_ready() if self._has_no_room(request, now)}
        for request in full - self.waiting - self.unplaceable.keys():
            self.note(f"waiting for room on the Ray cluster for a worker of {request}")
        self.waiting = full

    def _stalled(self) -> list[Event]:
        """End workers that do nothing any more; their bundles are given to others. Should one wake up and publish
        first, that counts.
        """
        events: list[Event] = []
        for worker in list(self.workers):
            still = time.monotonic() - worker.moved
            if worker.work is not None and still > self.settings.stalled_after_s:
                at = worker.work.bundle.steps[min(worker.stepped, len(worker.work.bundle.steps) - 1)][0]
                reason = f"its worker on node {worker.host} did nothing for {still:.0f} s (stalled_after_s)"
                events += self._ended(worker, End(worker.work.handle, "failed", at, reason, cause="node"))
                self._dismiss(worker)
        return events


def cause_of_death(death: Mapping[str, Any], host: str) -> tuple[str, str]:
    """Why an actor died: the cause (failure_causes.py) and the reason in words. death: from the driver."""
    text = death["text"]
    if death["memory"] or LOW.search(text):
        return "host_memory", f"node {host} ran out of memory, and Ray ended its worker"
    if death["preempted"]:
        return "preempted", f"node {host} was taken away"
    if death["node"] or "node has died" in text:
        return "node", f"node {host} was lost"
    return "died", f"its worker on node {host} died ({_detail(text)})"


def _detail(text: str) -> str:
    """Ray's own words on a worker's death, in one line."""
    match = re.search(r"exit detail: (.*?)(?:\. Some common causes|$)", text, re.MULTILINE)
    return match[1] if match else text.splitlines()[0]
