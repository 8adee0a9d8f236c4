"""The queue, the placement of workers, and the causes of their deaths, without a cluster."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest

from nag.distributed import rendezvous, world
from orchestrator.backends.ray.aside import ALL, FIRST_S, LONGEST_S, Aside
from orchestrator.backends.ray.backend import ROOM_S, Ray, cause_of_death
from orchestrator.backends.ray.handles import SETTLE_S, ActorHandle, WorkerHandle
from orchestrator.backends.ray.nodes import GB, RayNode, Request, capacity, describe_nodes, nodes_to_avoid
from orchestrator.backends.ray.ready_queue import ReadyQueue
from orchestrator.backends.ray.settings import RaySettings, RayWorker
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.protocol import Bundle, End, Work
from orchestrator.execution.retries import decide
from orchestrator.tasks.context import Options

A100 = RayNode("1", "a", {"CPU": 8.0, "GPU": 4.0, "accelerator_type:A100": 1.0, "memory": 64.0 * GB, "disk": 2.0})
CPU = RayNode("2", "b", {"CPU": 16.0, "memory": 128.0 * GB, "node:10.0.0.2": 1.0})


def work(handle: int, network: str = "", after: tuple[int, ...] = (), avoid: tuple[str, ...] = ()) -> Work:
    return Work(handle, Bundle((("d", (handle,)),), network=network, avoid=avoid), frozenset(after))


def anything(work: Work) -> bool:
    return True


@pytest.mark.parametrize(
    ("request_", "at_once"),
    [
        (Request(gpus=1), 4),
        (Request(gpus=0.5, cpus=1), 8),
        (Request(gpus=1, cpus=4), 2),
        (Request(gpus=1, gpu_type="A100"), 4),
        (Request(gpus=1, gpu_type="H100"), 0),
        (Request(gpus=8), 0),
        (Request(cpus=1), 24),
        (Request(cpus=1, memory=60 * GB), 3),
        (Request(cpus=0, custom=(("disk", 1.0),)), 2),
    ],
)
def test_capacity(request_: Request, at_once: int) -> None:
    assert capacity(request_, [A100, CPU]) == at_once


def test_words() -> None:
    assert str(Request(0.5, 2, 8 * GB, "A100", (("disk", 1.0),))) == "0.5 GPU A100, 2 CPU, 8 GB, 1 disk"
    assert describe_nodes([A100, A100, CPU]) == (
        "2 nodes of 8 CPU, 4 GPU A100, 64.0 GB, 2 disk; 1 node of 16 CPU, 128.0 GB"
    )
    assert describe_nodes([]) == "none"


def test_a_worker_takes_what_it_has_loaded() -> None:
    queue = ReadyQueue()
    for handle, network in enumerate("aabbc", start=1):
        queue.add(work(handle, network), "gpu")
    taken = [queue.take("gpu", ["b"], Counter("b"), anything) for _ in range(2)]
    assert [each and each.handle for each in taken] == [3, 4]
    other = queue.take("gpu", ["b"], Counter("ab"), anything)
    assert other is not None
    assert other.bundle.network == "c", "the network that nobody has loaded"
    assert queue.take("cpu", [], Counter(), anything) is None
    assert queue.count("gpu") == 2
    queue.add(work(9, after=(4,)), "large")
    assert queue.requests_ready() == ["gpu"]
    assert queue.requests_left() == ["gpu", "large"], "what waits for others counts"
    queue.end(4, "failed")
    assert queue.requests_left() == ["gpu"]


def test_a_host_to_keep_away_from() -> None:
    queue = ReadyQueue()
    queue.add(work(1, avoid=("bad",)), "gpu")
    queue.add(work(2), "gpu")
    taken = queue.take("gpu", [], Counter(), lambda each: "bad" not in each.bundle.avoid)
    assert taken is not None
    assert taken.handle == 2


def test_the_queue_against_a_plain_account() -> None:
    """Random graphs and outcomes: exactly the right bundles start or are skipped."""
    for seed in range(50):
        draw = random.Random(seed)
        works = [work(n, after=tuple(draw.sample(range(1, n), draw.randrange(min(n, 4))))) for n in range(1, 30)]
        queue, ended, skipped = ReadyQueue(), {}, set()
        late = works[20:]
        for each in works[:20]:
            skipped |= set(queue.add(each, "w"))
        running: list[Work] = []
        while True:
            while (taken := queue.take("w", [], Counter(), anything)) is not None:
                assert all(ended.get(need) == "done" for need in taken.after)
                running.append(taken)
            if late and (not running or draw.random() < 0.3):
                skipped |= set(queue.add(late.pop(0), "w"))
            elif running:
                over = running.pop(draw.randrange(len(running)))
                ended[over.handle] = draw.choice(["done", "done", "done", "failed"])
                skipped |= set(queue.end(over.handle, ended[over.handle]))
            elif not late:
                break
        for each in works:
            lost = any(ended.get(need) == "failed" or need in skipped for need in each.after)
            assert (each.handle in skipped) == lost
            assert (each.handle in ended) != lost


def backend(settings: RaySettings, *nodes: RayNode, device: str = "auto") -> Any:
    """A Ray backend with these nodes, without a cluster."""
    made = Ray.__new__(Ray)
    made.settings, made.nodes, made.has_gpus = settings, list(nodes), any("GPU" in n.resources for n in nodes)
    made.options, made.aside = Options(device=device), Aside()
    return made


def test_what_a_bundle_asks_for() -> None:
    kinds = ("train", "sample", "extract", "measure", "reference", "score")
    with_gpus, without = backend(RaySettings(), A100, CPU), backend(RaySettings(), CPU)
    assert [with_gpus.request(Bundle((), kind=kind)).gpus for kind in kinds] == [1, 1, 1, 1, 0, 0]
    assert {without.request(Bundle((), kind=kind)) for kind in kinds} == {Request(0, 1)}, "one kind of worker"
    assert backend(RaySettings(), A100, device="cpu").request(Bundle((), kind="train")) == Request(0, 1)
    shared = backend(RaySettings(worker=RayWorker(gpus=0.5, cpus=0.5), cpu_stages=("score",)), A100)
    assert shared.request(Bundle((), kind="reference")) == Request(0.5, 0.5)
    assert shared.size(None, "", 1000) == 16
    assert shared.size(None, "", 64) == 2, "all eight workers end together"


def test_processes_of_a_training() -> None:
    """Each process holds what a worker holds, on any nodes; other bundles request as much as before."""
    other = dataclasses.replace(A100, id="3", host="c")
    for gpus in (None, 1.0):
        many = backend(RaySettings(worker=RayWorker(gpus=gpus, memory_gb=8), workers=12), A100, CPU, other)
        many.options = Options(device="auto", processes=6)
        asked = many.request(Bundle((), kind="train"))
        assert asked == Request(1, 1, 8 * GB, processes=6)
        assert (capacity(asked, [A100, CPU]), capacity(asked, [A100, CPU, other])) == (0, 1)
        assert many._at_most(asked) == 2, "more than there is room for now: a cluster that grows sees it"
        assert many.request(Bundle((), kind="sample")) == Request(1, 1, 8 * GB)
        doubled = [many.request(Bundle((), kind="train", doublings=n)) for n in (1, 2, 3)]
        assert [each.memory for each in doubled] == [16 * GB, 64 * GB // 3, 64 * GB // 3], "three on each node"
        assert capacity(doubled[-1], many.nodes) == 1
    with pytest.raises(ValueError, match=r"each needs a GPU of its own, but worker\.gpus is below 1"):
        RaySettings(worker=RayWorker(gpus=0.5), processes=2)
    few = backend(RaySettings(workers=5), A100, other)
    pair = Request(1, processes=2)
    assert (capacity(pair, few.nodes), few._at_most(pair), few._at_most(Request(1))) == (4, 2, 5)


def test_processes_keep_off_hosts() -> None:
    """Off nodes that have failed, unless the others are not enough."""
    other = dataclasses.replace(A100, id="3", host="c")
    many = backend(RaySettings(), A100, CPU, other)
    many.options = Options(device="auto", processes=4)
    asked = many.request(Bundle((), kind="train", avoid=("a", "gone")))
    assert nodes_to_avoid(asked, many.nodes) == ["1"]
    assert nodes_to_avoid(dataclasses.replace(asked, processes=5), many.nodes) == []
    assert nodes_to_avoid(many.request(Bundle((), kind="train")), many.nodes) == []
    assert many.request(Bundle((), kind="sample", avoid=("a",))) == Request(1, 1), "one kind of worker"


def test_what_a_group_is_made_of() -> None:
    asked = Request(1, 0.5, 8 * GB, "A100", (("disk", 1.0),), processes=2)
    held = {"GPU": 1, "CPU": 0.5, "memory": 8 * GB, "disk": 1.0, "accelerator_type:A100": 0.001}
    assert asked.bundle() == held
    assert Request(0, 0).bundle() == {"CPU": 0.001}, "Ray takes none of nothing"


def test_nodes_that_are_set_aside() -> None:
    """Longer each time, once for all workers that fail at one time, and no more once a worker came up."""
    aside, nodes = Aside(), [A100, CPU]
    assert [aside.failed("1", now) for now in (0, 1, FIRST_S, FIRST_S + 1, 3 * FIRST_S)] == [10, None, 20, None, 40]
    assert aside.usable(nodes, 31) == [CPU]
    assert aside.usable(nodes, 71) == nodes
    for _ in range(9):
        wait = aside.failed("1", max(aside.until.values()))
    assert wait == LONGEST_S
    aside.up("1")
    assert aside.usable(nodes, 0) == nodes
    assert aside.failed(ALL, 0) == FIRST_S
    assert aside.usable(nodes, 1) == []
    aside.broken.add("2")
    assert (aside.usable(nodes, 1e6), aside.working(nodes)) == ([A100], [A100])


def watched(*nodes: RayNode) -> tuple[Any, Told, list[str]]:
    """A backend with these nodes that starts workers on nothing; its orders, and what it says."""
    made, told, said = backend(RaySettings(wait_s=0), *nodes), Told(), []
    made.connection, made.note, made.queue, made.workers = told, said.append, ReadyQueue(), []
    made.plan, made.url, made.skipped, made.failed_starts = "", "", [], 0
    made.unplaceable, made.waiting, told.address = {}, set(), "head:6379"  # type: ignore[attr-defined]
    return made, told, said


DEATH = {"event": "death", "method": "hello", "rank": 0, "memory": True}
DEATH |= {"preempted": False, "node": False, "hopeless": False}


def test_memory_that_others_use_does_not_end_a_run() -> None:
    """Four workers fail at once: one failure, the node is named, and the next start is off it."""
    made, told, said = watched(A100, dataclasses.replace(A100, id="nodeB", host="b"))
    for handle in range(1, 9):
        made.queue.add(work(handle), Request(gpus=1))
    made._dispatch()
    first = [order for order in told.orders if order["order"] == "start"]
    assert len(first) == 8
    for order in first[:4]:
        made._handle({**DEATH, "worker": order["worker"], "text": "node running low on memory (ID: nodeB)"})
    assert made.failed_starts == 1
    assert said == [
        "a worker did not start on node b of the Ray cluster: node b ran out of memory, and Ray ended its worker; "
        "there again in 10 s"
    ]
    told.orders.clear()
    made._dispatch()
    assert [order for order in told.orders if order["order"] == "start"] == []
    assert made._at_most(Request(gpus=1)) == 4
    made.aside.until["nodeB"] = 0
    made._dispatch()
    assert len([order for order in told.orders if order["order"] == "start"]) == 4


def test_a_node_without_torch_stops_nothing_unless_it_is_the_last() -> None:
    made, told, said = watched(A100, dataclasses.replace(A100, id="nodeB", host="b"))
    for handle in range(1, 9):
        made.queue.add(work(handle), Request(gpus=1))
    made._dispatch()
    up = {"event": "answer", "method": "hello", "rank": 0}
    problem = "ModuleNotFoundError: No module named 'torch'"
    bad = {**up, "answer": {"host": "b", "node": "nodeB", "problem": problem}}
    made._handle({**bad, "worker": made.workers[0].number})
    assert said == [f"on node b of the Ray cluster: {problem}; no worker is started there any more"]
    told.orders.clear()
    made._dismiss(made.workers[0])
    made.queue.add(work(9), Request(gpus=0.5))
    made._dispatch()
    assert [order["off"] for order in told.orders if order["order"] == "start"] == [["nodeB"]]
    last = {**up, "answer": {"host": "a", "node": "1", "problem": problem}}
    with pytest.raises(EnvironmentProblem, match="on node a of the Ray cluster: ModuleNotFoundError"):
        made._handle({**last, "worker": made.workers[0].number})


def test_a_cluster_that_grows_sees_a_demand() -> None:
    """One worker is asked for though no node can hold it, and the user is told for how long it is waited."""
    made, told, said = watched(CPU)
    made.settings = RaySettings(wait_s=600)
    made.queue.add(work(1), Request(gpus=1))
    made._dispatch()
    assert len([order for order in told.orders if order["order"] == "start"]) == 1
    made._see_nodes([CPU])
    made._see_nodes([CPU])
    (words,) = said
    assert "can hold a worker of 1 GPU, 1 CPU; it has 1 node of 16 CPU" in words
    assert words.endswith("waiting 600 s (wait_s) for a node to join")


def test_waiting_for_room_is_said_once() -> None:
    made, _, said = watched(A100)
    made.queue.add(work(1), Request(gpus=1))
    made._dispatch()
    made.workers[0].idle_since -= ROOM_S + 1
    made._see_nodes([A100])
    made._see_nodes([A100])
    assert said == ["waiting for room on the Ray cluster for a worker of 1 GPU, 1 CPU"]


class Told:
    """A connection that remembers the orders."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []

    def send(self, **order: Any) -> None:
        self.orders.append(order)


@pytest.mark.parametrize(("nodes", "host"), [(("1", "1", "1"), "127.0.0.1"), (("1", "2", "1"), "10.0.0.1")])
def test_processes_meet_at_the_first(nodes: tuple[str, ...], host: str) -> None:
    told, peers = Told(), [ActorHandle() for _ in nodes[1:]]
    worker = WorkerHandle(connection=told, request=Request(processes=3), peers=peers)  # type: ignore[arg-type]
    for each, node in reversed(list(zip(worker.actors, nodes, strict=True))):
        assert not worker.host
        assert not told.orders, "before all are up"
        worker.up(each, {"host": f"h{node}", "node": node, "ip": f"10.0.0.{node}", "port": 9})
    assert worker.host == "h1"
    given = {order["rank"]: order["arguments"][0] for order in told.orders}
    assert {rank: world(variables)[:2] for rank, variables in given.items()} == {rank: (rank, 3) for rank in range(3)}
    assert {rendezvous(variables) for variables in given.values()} == {(host, 9)}


def test_when_a_training_has_ended() -> None:
    """Once the first has let go and it is known who is gone; in any case after a while."""
    end = End(1, "failed", reason="PeerFailed: another process of the training died")

    def worker() -> WorkerHandle:
        told: Any = Told()
        return WorkerHandle(connection=told, request=Request(processes=2), peers=[ActorHandle()])

    left = worker()
    assert not left.settled()
    left.due = False
    left.expect(end)  # the first says so, and Ray has not told of the other
    assert not left.settled()
    left.expect(end, lost=True)
    assert left.settled()

    in_words = worker()
    in_words.peers[0].due = False  # the other says that it failed, and the first does not answer
    in_words.expect(end)
    assert not in_words.settled()
    in_words.settles -= SETTLE_S
    assert in_words.settled()
    in_words.settles += SETTLE_S
    in_words.due = False
    assert in_words.settled()


def test_memory_doubles_up_to_a_bound() -> None:
    plain = backend(RaySettings(), A100)
    asked = [plain.request(Bundle((), kind="score", doublings=n)).memory // GB for n in range(6)]
    assert asked == [0, 8, 16, 32, 64, 64]
    bound = backend(RaySettings(cpu_worker=RayWorker(memory_gb=10), memory_gb_at_most=25), A100)
    assert [bound.request(Bundle((), kind="score", doublings=n)).memory // GB for n in range(3)] == [10, 20, 25]


def test_causes(ray_environment: str) -> None:
    """From Ray's errors; and what the retries decide."""
    from ray import exceptions

    from orchestrator.backends.ray.driver import death

    def cause_of(error: Exception) -> tuple[str, str]:
        return cause_of_death(death(error), "n1")

    taken = exceptions.RayActorError(error_msg="The actor died because its node has died.", preempted=True)
    cases = {
        "host_memory": exceptions.OutOfMemoryError("1 worker(s) were killed due to the node running low on memory"),
        "preempted": taken,
        "node": exceptions.RayActorError(error_msg="The actor died because its node has died. RayNode Id: 7"),
        "died": exceptions.RayActorError(
            error_msg="It is dead.\nWorker exit detail: code 2. End of file. Some common causes"
        ),
    }
    for cause, error in cases.items():
        assert cause_of(error)[0] == cause
        assert "n1" in cause_of(error)[1]
    low = "The actor died. Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed due to the node"
    assert cause_of(exceptions.RayActorError(error_msg=low))[0] == "host_memory"
    assert cause_of(exceptions.ActorUnavailableError("RPC error: Socket closed", b"0" * 16))[0] == "node"
    assert cause_of(cases["died"])[1] == "its worker on node n1 died (code 2. End of file)"
    lost = {"cause": "host_memory", "reason": "r"}
    assert decide([lost]).doublings == 1
    assert "it already had the most memory" in decide([{**lost, "at_memory_bound": True}]).give_up
