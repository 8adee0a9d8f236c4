"""Bundles on a Ray cluster, or on a private Ray of this machine: actors, one a GPU (or a fraction, or a CPU), each of
which keeps its networks loaded and does one bundle at a time. What needs no GPU is done by actors that see none.

Each actor has one call in flight at most, however much waits. Ray retries nothing (max_restarts, max_task_retries 0):
an end is told to the engine with its cause, and the engine decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends import Bundle, End, Event, Step, Work, event_of, message_of
from orchestrator.backends.local import BLOCKS_A_BUNDLE, ONE_THREAD
from orchestrator.backends.ray.actor import Actor
from orchestrator.backends.ray.connection import Connection
from orchestrator.backends.ray.nodes import GB, Node, Request, capacity, listing, nodes
from orchestrator.backends.ray.waiting import Waiting
from orchestrator.errors import EnvironmentProblem
from orchestrator.plan import Plan
from orchestrator.site import Ray as Settings
from orchestrator.site import RayWorker
from orchestrator.store import Store
from orchestrator.tasks import LOADED_AT_MOST, Options

LOOK_EVERY_S = 2.0  # at the nodes
ROOM_S = 15.0  # an actor that is not up by then waits for a place on a node
IDLE_S = 30.0  # without work, before an actor gives its GPU back
TURN_S = 10.0  # an actor with nothing to tell answers after this time
GATHER_S = 0.5  # what an actor tells within this time comes in one answer; longer where there are many actors
ANSWERS_A_S = 200.0  # of all actors together
BAD_STARTS_AT_MOST = 8  # actors in a row that died before they did anything
FIRST_DOUBLING_GB = 4.0  # what is doubled where the site sets no memory
LOW = re.compile(r"running low on memory|NODE_OUT_OF_MEMORY")  # how Ray tells of an actor that it ended itself
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


@dataclass
class Hand:
    """An actor, as this side knows it."""

    request: Request
    remote: Any
    ref: Any  # the call in flight; None: it has nothing to do
    host: str = ""  # "": not up yet
    node: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    stepped: int = 0  # steps of that bundle that are published
    networks: list[str] = field(default_factory=list)  # that it has loaded, the latest last
    idle_since: float = field(default_factory=time.monotonic)


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
        """A training of several processes holds what as many workers hold, on one node: they run beside its actor."""
        times = self.options.processes if bundle.kind == "train" else 1
        on_cpu = bundle.kind in self.settings.cpu_stages
        said: RayWorker = self.settings.cpu_worker if on_cpu else self.settings.worker
        wanted = said.gpus if said.gpus is not None else float(self.has_gpus and self.options.device != "cpu")
        gpus = 0.0 if on_cpu else wanted
        memory = int((said.memory_gb or 0) * times * GB)
        if bundle.doublings:
            first = (said.memory_gb or FIRST_DOUBLING_GB) * times
            memory = min(int(first * GB) << bundle.doublings, self._memory_at_most())
        custom = tuple(sorted(said.resources.items()))
        return Request(gpus * times, said.cpus * times, memory, said.gpu_type or "", custom)

    def _memory_at_most(self) -> int:
        if self.settings.memory_gb_at_most is not None:
            return int(self.settings.memory_gb_at_most * GB)
        return int(max((node.resources.get("memory", 0) for node in self.nodes), default=0))

    def size(self, plan: Plan, stream: str, blocks: int) -> int:
        workers = self._at_most(self.request(Bundle((), kind="sample")))
        return max(1, min(BLOCKS_A_BUNDLE, blocks // (4 * max(1, workers))))

    def _at_most(self, request: Request) -> int:
        found = capacity(request, self.nodes)
        return found if self.settings.workers is None else min(found, self.settings.workers)

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
        calls = {hand.ref: hand for hand in self.hands if hand.ref is not None}
        if not calls:
            time.sleep(0.0 if events else min(timeout_s, 0.1))
            return events
        answered, _ = ray.wait(list(calls), num_returns=1, timeout=0 if events else timeout_s, fetch_local=False)
        if answered and len(calls) > 1:
            answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
        for ref in answered:
            events += self._heard(calls[ref])
        return events + self._dispatch()

    def close(self) -> None:
        import ray

        for hand in self.hands:
            with contextlib.suppress(Exception):
                ray.kill(hand.remote)
        self.hands.clear()
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
            if answer["problem"]:
                raise EnvironmentProblem(f"on node {answer['host']} of the Ray cluster: {answer['problem']}")
            hand.host, hand.node, hand.about, self.bad_starts = answer["host"], answer["node"], answer, 0
            hand.idle_since = time.monotonic()
            return []
        events: list[Event] = []
        for message in answer:
            event = event_of(message)
            hand.stepped += isinstance(event, Step)
            events += self._ended(hand, event) if isinstance(event, End) else [event]
        if hand.work is not None:
            self._call(hand, None)
        return events

    def _call(self, hand: Hand, message: dict[str, Any] | None) -> None:
        hand.ref = hand.remote.turn.remote(message, TURN_S, max(GATHER_S, len(self.hands) / ANSWERS_A_S))

    def _ended(self, hand: Hand, end: End) -> list[Event]:
        hand.work, hand.idle_since = None, time.monotonic()
        if end.outcome == "failed":
            end = dataclasses.replace(end, details={**self._where(hand), **(end.details or {})})
        skipped = self.waiting.end(end.handle, end.outcome)
        return [end, *(End(handle, "skipped") for handle in skipped)]

    def _where(self, hand: Hand) -> dict[str, Any]:
        return {"host": hand.host, "node": hand.node, "pid": hand.about.get("pid", 0)}

    def _lost(self, hand: Hand, error: Exception) -> list[Event]:
        """An actor is gone, and with it its bundle."""
        import ray

        self.hands.remove(hand)
        with contextlib.suppress(Exception):
            ray.kill(hand.remote)  # one that cannot be reached may still be at work
        if hand.work is None:
            self._bad_start(error)
            return []
        cause, reason = why(error, hand.host)
        bundle = hand.work.bundle
        at = bundle.steps[min(hand.stepped, len(bundle.steps) - 1)][0]
        full = hand.request.memory and hand.request.memory >= self._memory_at_most()
        details = {"at_memory_bound": True} if cause == "host_memory" and full else {}
        return self._ended(hand, End(hand.work.handle, "failed", at, reason, cause=cause, details=details))

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
                self._start(request)
        self._let_go()
        return events

    def _give(self, hand: Hand, holders: Counter[str]) -> None:
        elsewhere = {node.host for node in self.nodes if hand.request.fits(node.resources)} - {hand.host}

        def may(work: Work) -> bool:
            return hand.host not in work.bundle.avoid or not elsewhere.difference(work.bundle.avoid)

        work = self.waiting.take(hand.request, hand.networks, holders, may)
        if work is None:
            return
        hand.work, hand.stepped = work, 0
        network = work.bundle.network
        if network:
            hand.networks = [*(n for n in hand.networks if n != network), network][-LOADED_AT_MOST["network"] :]
            holders[network] += 1
        self._call(hand, message_of(work.handle, work.bundle))

    def _start(self, request: Request) -> None:
        import ray

        options = dataclasses.asdict(self.options)
        if not request.gpus and options["device"].startswith("cuda"):
            options["device"] = "cpu"
        environment = {**ONE_THREAD, **({} if request.gpus else NO_GPU)}
        remote: Any = (
            ray.remote(Actor)
            .options(**request.options(), max_restarts=0, max_task_retries=0, runtime_env={"env_vars": environment})
            .remote(self.url, options, self.plan)
        )
        self.hands.append(Hand(request, remote, remote.hello.remote()))

    def _let_go(self) -> None:
        """End actors without work whose place somebody else waits for, and those that have had none for a while."""
        import ray

        now, ready = time.monotonic(), self.waiting.sorts_ready()
        without_room = any(self._has_no_room(request, now) for request in ready)
        for hand in list(self.hands):
            unused = hand.work is None and hand.request not in ready
            if unused and (without_room or now - hand.idle_since > IDLE_S):
                self.hands.remove(hand)
                ray.kill(hand.remote)

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
        self.hands = [hand for hand in self.hands if hand.work or not hand.host or hand.node in alive]
        lacking = [r for r in self.waiting.sorts_left() if isinstance(r, Request) and not capacity(r, self.nodes)]
        self.lacking = {request: self.lacking.get(request, now) for request in lacking}
        for request, since in self.lacking.items():
            if now - since >= self.settings.wait_s:
                raise EnvironmentProblem(
                    f"no node of the Ray cluster at {self.connection.address} can hold a worker of {request}; it has "
                    f"{listing(self.nodes)}"
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
