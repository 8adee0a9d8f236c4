"""Bundles on a Ray cluster, or on a private Ray of this machine: actors, one a GPU (or a fraction, or a CPU), each of
which keeps its networks loaded and does one bundle at a time. What needs no GPU is done by actors that see none.

Each actor has one call in flight at most, however much waits. Ray retries nothing (max_restarts, max_task_retries 0):
an end is told to the engine with its cause, and the engine decides.

A training by several processes has an actor for each, on as few nodes as hold them, which end with it. Ray Train is not
used: it wants pyarrow and pandas on every node and brings checkpoints, retries and a group of its own, so that training
would be another thing here than on Slurm.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from orchestrator.backends.local import BLOCKS_A_BUNDLE
from orchestrator.backends.ray.connection import Connection
from orchestrator.backends.ray.handles import Hand, Peer, start
from orchestrator.backends.ray.nodes import GB, Node, Request, away, capacity, listing, nodes
from orchestrator.backends.ray.ready_queue import Waiting
from orchestrator.backends.ray.settings import Ray as Settings
from orchestrator.backends.ray.settings import RayWorker
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work, event_of, message_of
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import LOADED_AT_MOST, Options
from orchestrator.tasks.task import kind_of

LOOK_EVERY_S = 2.0  # at the nodes
ROOM_S = 15.0  # an actor that is not up by then waits for a place on a node
IDLE_S = 30.0  # without work, before an actor gives its GPU back
TURN_S = 10.0  # an actor with nothing to tell answers after this time
GATHER_S = 0.5  # what an actor tells within this time comes in one answer; longer where there are many actors
ANSWERS_A_S = 200.0  # of all actors together
BAD_STARTS_AT_MOST = 8  # actors in a row that died before they did anything
FIRST_DOUBLING_GB = 4.0  # what is doubled where the site sets no memory
PEER_FAILED = "PeerFailed: "  # in a reason: the error of nag.distributed, of a process that another one has left
LOW = re.compile(r"running low on memory|NODE_OUT_OF_MEMORY")  # how Ray tells of an actor that it ended itself


class Ray:
    """`address` None: a private instance with `cpus` CPUs."""

    def __init__(
        self,
        store: Store,
        options: Options,
        settings: Settings | None = None,
        address: str | None = None,
        cpus: int = 1,
    ) -> None:
        self.store, self.settings = store, settings or Settings()
        self.options = dataclasses.replace(options, processes=max(options.processes, self.settings.processes))
        self.url = store.root if store.local else store.url  # absolute: actors are in other folders
        self.connection = Connection(address, cpus, self.settings.token_file)
        self.nodes: list[Node] = nodes()
        self.has_gpus = any(node.resources.get("GPU") for node in self.nodes)
        self.looked = time.monotonic()
        self.waiting = Waiting()
        self.hands: list[Hand] = []
        self.lacking: dict[Request, float] = {}  # what no node can give -> since when
        self.bad_starts = 0
        self.plan = ""
        self.never: list[int] = []  # bundles that could not even wait

    # What a bundle asks for.

    def request(self, bundle: Bundle) -> Request:
        on_cpu = bundle.kind in self.settings.cpu_stages
        said: RayWorker = self.settings.cpu_worker if on_cpu else self.settings.worker
        wanted = said.gpus if said.gpus is not None else float(self.has_gpus and self.options.device != "cpu")
        memory = int((said.memory_gb or 0) * GB)
        custom = tuple(sorted(said.resources.items()))
        processes = self.options.processes if kind_of(bundle.kind).distributed else 1
        avoid = bundle.avoid if processes > 1 else ()
        asked = Request(0.0 if on_cpu else wanted, said.cpus, memory, said.gpu_type or "", custom, processes, avoid)
        if bundle.doublings:
            most = int((said.memory_gb or FIRST_DOUBLING_GB) * GB) << bundle.doublings
            asked = dataclasses.replace(asked, memory=min(most, self._memory_at_most(asked)))
        return asked

    def _memory_at_most(self, asked: Request) -> int:
        """For each process; what the site says, or the nodes that have the rest can give to all of them at once."""
        if self.settings.memory_gb_at_most is not None:
            return int(self.settings.memory_gb_at_most * GB)
        have = [int(node.resources.get("memory", 0)) for node in self.nodes]
        shares = {memory // number for memory in have for number in range(1, asked.processes + 1)}
        return max((m for m in shares if capacity(dataclasses.replace(asked, memory=m), self.nodes)), default=0)

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        workers = self._at_most(self.request(Bundle((), kind="sample")))
        return max(1, min(BLOCKS_A_BUNDLE, blocks // (4 * max(1, workers))))

    def _at_most(self, request: Request) -> int:
        found = capacity(request, self.nodes)
        most = self.settings.workers
        return found if most is None else min(found, max(1, most // request.processes))

    # The conversation with the engine.

    def adopt(self) -> list[Bundle]:
        return []

    def submit(self, work: Sequence[Work]) -> None:
        for each in work:
            self.plan = each.bundle.plan
            self.never += self.waiting.add(each, self.request(each.bundle))

    def poll(self, timeout_s: float) -> list[Event]:
        import ray

        self._look()
        events = self._dispatch()
        calls = {each.ref: (hand, each) for hand in self.hands for each in hand.all if each.ref is not None}
        if not calls:
            time.sleep(0.0 if events else min(timeout_s, 0.1))
            return events + self._settled()
        answered, _ = ray.wait(list(calls), num_returns=1, timeout=0 if events else timeout_s, fetch_local=False)
        if answered and len(calls) > 1:
            answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
        for hand, each in map(calls.__getitem__, answered):
            if hand in self.hands:  # not ended by what another of its actors has told
                events += self._heard(hand) if each is hand else self._heard_of(hand, each)
        return events + self._settled() + self._dispatch()

    def close(self) -> None:
        for hand in list(self.hands):
            self._dismiss(hand)
        self.connection.close()

    # The actors.

    def _heard(self, hand: Hand) -> list[Event]:
        """An actor has answered, or never will."""
        import ray
        from ray.exceptions import RayError

        try:
            answer = ray.get(hand.ref)
        except RayError as error:
            return self._lost(hand, error)
        hand.ref = None
        if not hand.host:
            return self._up(hand, hand, answer)
        events: list[Event] = []
        for message in answer:
            event = event_of(message)
            hand.stepped += isinstance(event, Step)
            if not isinstance(event, End):
                events.append(event)
            elif not (hand.peers and PEER_FAILED in event.reason):
                events += self._ended(hand, event)
            elif not hand.lost:
                hand.expect(event)
        if hand.work is not None and not any(message["event"] == "end" for message in answer):
            self._call(hand, None)
        return events

    def _heard_of(self, hand: Hand, peer: Peer) -> list[Event]:
        """The same, of another process of a training. What it has to say of its end is said if the first does not."""
        import ray
        from ray.exceptions import RayError

        try:
            answer = ray.get(peer.ref)
        except RayError as error:
            return self._lost(hand, error, peer)
        peer.ref = None
        if not hand.host:
            return self._up(hand, peer, answer)
        end = event_of(answer[-1])
        if isinstance(end, End) and end.outcome != "done" and hand.ending is None:
            hand.expect(end)
        return []

    def _up(self, hand: Hand, who: Peer, answer: dict[str, Any]) -> list[Event]:
        who.ref = None
        if answer["problem"]:
            raise EnvironmentProblem(f"on node {answer['host']} of the Ray cluster: {answer['problem']}")
        hand.up(who, answer)
        self.bad_starts = 0
        return []

    def _settled(self) -> list[Event]:
        ended = [(hand, hand.ending) for hand in self.hands if hand.ending is not None and hand.settled()]
        return [event for hand, end in ended for event in self._ended(hand, end)]

    def _call(self, hand: Hand, message: dict[str, Any] | None) -> None:
        hand.ref = hand.remote.turn.remote(message, TURN_S, max(GATHER_S, len(self.hands) / ANSWERS_A_S))

    def _ended(self, hand: Hand, end: End) -> list[Event]:
        hand.work, hand.idle_since = None, time.monotonic()
        if hand.peers:
            self._dismiss(hand)
        if end.outcome == "failed":
            end = dataclasses.replace(end, details={**hand.where(), **(end.details or {})})
        skipped = self.waiting.end(end.handle, end.outcome)
        return [end, *(End(handle, "skipped") for handle in skipped)]

    def _dismiss(self, hand: Hand) -> None:
        if hand in self.hands:
            self.hands.remove(hand)
        hand.kill()

    def _lost(self, hand: Hand, error: Exception, peer: Peer | None = None) -> list[Event]:
        """An actor is gone, and with it its bundle; a peer is, and the first has to notice and let go."""
        who, work = peer or hand, hand.work
        who.ref = None
        if peer is None or work is None:
            self._dismiss(hand)
        if work is None:
            self._bad_start(error)
            return []
        cause, reason = why(error, who.about["host"])
        at = work.bundle.steps[min(hand.stepped, len(work.bundle.steps) - 1)][0]
        full = hand.request.memory and hand.request.memory >= self._memory_at_most(hand.request)
        details = who.where() | ({"at_memory_bound": True} if cause == "host_memory" and full else {})
        end = End(work.handle, "failed", at, reason, cause=cause, details=details)
        if peer is None:
            return self._ended(hand, end)
        hand.expect(end, lost=True)
        return []

    def _bad_start(self, error: Exception) -> None:
        from ray.exceptions import RuntimeEnvSetupError

        self.bad_starts += 1
        hopeless = getattr(error, "actor_init_failed", False) or isinstance(error, RuntimeEnvSetupError)
        if hopeless or self.bad_starts > BAD_STARTS_AT_MOST:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise EnvironmentProblem(
                f"workers cannot start on the Ray cluster at {self.connection.address}: {lines[-1]}"
            )

    # Who does what.

    def _dispatch(self) -> list[Event]:
        """Give every idle actor a bundle; start actors where there is more to do, end those that others wait for."""
        events: list[Event] = [End(handle, "skipped") for handle in self.never]
        for handle in self.never:
            events += [End(other, "skipped") for other in self.waiting.end(handle, "skipped")]
        self.never = []
        holders = Counter(network for hand in self.hands for network in hand.networks)
        for hand in self.hands:
            if hand.host and hand.work is None and hand.ref is None:
                self._give(hand, holders)
        for request in self.waiting.sorts_ready():
            assert isinstance(request, Request)
            there = sum(hand.request == request for hand in self.hands)
            starting = sum(hand.request == request and not hand.host for hand in self.hands)
            wanted = min(self.waiting.count(request) - starting, self._at_most(request) - there)
            for _ in range(wanted):
                options, off = dataclasses.asdict(self.options), away(request, self.nodes)
                self.hands.append(start(request, off, self.url, options, self.plan))
        self._let_go()
        return events

    def _give(self, hand: Hand, holders: Counter[str]) -> None:
        def may(work: Work) -> bool:
            if hand.peers or hand.host not in work.bundle.avoid:  # peers have been placed by it
                return True
            return not capacity(hand.request, [node for node in self.nodes if node.host not in work.bundle.avoid])

        work = self.waiting.take(hand.request, hand.networks, holders, may)
        if work is None:
            return
        hand.work, hand.stepped = work, 0
        network = work.bundle.network
        if network:
            hand.networks = [*(n for n in hand.networks if n != network), network][-LOADED_AT_MOST["network"] :]
            holders[network] += 1
        message = message_of(work.handle, work.bundle)
        self._call(hand, message)
        for peer in hand.peers:
            peer.ref = peer.remote.turn.remote(message, 0.0, None)  # until it ends

    def _let_go(self) -> None:
        """End actors without work whose place somebody else waits for, and those that have had none for a while."""
        now, ready = time.monotonic(), self.waiting.sorts_ready()
        without_room = any(self._has_no_room(request, now) for request in ready)
        for hand in list(self.hands):
            unused = hand.work is None and hand.request not in ready
            if unused and (without_room or now - hand.idle_since > IDLE_S):
                self._dismiss(hand)

    def _has_no_room(self, request: Hashable, now: float) -> bool:
        """Whether nobody works for a sort of bundle, and its first actor has been starting for a while."""
        hands = [hand for hand in self.hands if hand.request == request]
        return bool(hands) and not any(hand.host for hand in hands) and now - hands[0].idle_since > ROOM_S

    def _look(self) -> None:
        """See which nodes there are. Raises EnvironmentProblem for what none of them could do for a while."""
        now = time.monotonic()
        if now - self.looked < LOOK_EVERY_S:
            return
        self.looked, self.nodes = now, nodes()
        alive = {node.id for node in self.nodes}
        for hand in list(self.hands):
            if hand.work is None and hand.host and not alive.issuperset(each.about["node"] for each in hand.all):
                self._dismiss(hand)
        lacking = [r for r in self.waiting.sorts_left() if isinstance(r, Request) and not capacity(r, self.nodes)]
        self.lacking = {request: self.lacking.get(request, now) for request in lacking}
        for request, since in self.lacking.items():
            if now - since >= self.settings.wait_s:
                who, what = "no node", f"can hold a worker of {request}"
                if request.processes > 1:
                    who = "the nodes together"
                    what = f"cannot hold {request.processes} processes that train one network, each of {request}"
                raise EnvironmentProblem(
                    f"{who} of the Ray cluster at {self.connection.address} {what}; it has {listing(self.nodes)}"
                )


def why(error: Exception, host: str) -> tuple[str, str]:
    """The cause of an actor's end, and the reason in words."""
    from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError

    text = str(error)
    if isinstance(error, OutOfMemoryError) or LOW.search(text):
        return "host_memory", f"node {host} ran out of memory, and Ray ended its worker"
    if getattr(error, "preempted", False):
        return "preempted", f"node {host} was taken away"
    if isinstance(error, NodeDiedError | ActorUnavailableError) or "node has died" in text:
        return "node", f"node {host} was lost"
    return "died", f"its worker on node {host} died ({_detail(text)})"


def _detail(text: str) -> str:
    """What Ray says of a worker's death, in a few words."""
    found = re.search(r"exit detail: (.*?)(?:\. Some common causes|$)", text, re.MULTILINE)
    return found[1] if found else text.splitlines()[0]
