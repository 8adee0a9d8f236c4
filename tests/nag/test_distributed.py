"""Several processes train one network as one does, and none waits for another that is gone. Real processes, gloo."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nag import distributed, heartbeat
from nag.datasets.digits import Digits
from nag.distributed import ALONE, World, rendezvous, world
from nag.interpolants import Linear
from nag.models.sit import SiT
from nag.training import Training, train
from tests.nag.together import note, noted, sockets, started, together

TRAINING = Training(steps=50, batch=16, lr=1e-3, clip=1.0, noise_dropout=0.2, class_dropout=0.2, seed=5)
CLOSE = 1e-4


def trained(world: World, training: Training = TRAINING, **options: Any) -> dict[str, torch.Tensor]:
    data, model = Digits(), SiT(hidden=16, depth=1, heads=2, patch=4)
    module = model.module(data.shape, data.num_classes, null_noise=True)
    loss = model.loss(Linear(), "velocity")
    return train(module, data.open("train"), training, loss=loss, num_classes=data.num_classes, world=world, **options)


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return trained(ALONE)


def whole_and_resumed(folder: Path) -> None:
    """A training, the same from one of its checkpoints, and one that diverges."""
    here, kept = world(), {}
    with distributed.group(here):
        weights = trained(here, due=lambda: True, save=lambda step, state: kept.setdefault(step, state))
        again = trained(here, resume=kept.get(31))
        try:
            trained(here, Training(steps=50, batch=16, lr=1e30))
        except FloatingPointError as error:
            note(folder, here.rank, str(error))
    if here.rank == 0:
        assert sorted(kept) == list(range(1, 50))
        save_file(weights, folder / "weights.safetensors")
        save_file(again, folder / "again.safetensors")
    else:
        assert not weights
        assert not kept


def test_four_processes(alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The same weights as one; the same bits after a kill; all stop a training that diverges, for the same reason."""
    assert together(4, whole_and_resumed, tmp_path) == [0, 0, 0, 0]
    weights, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("weights", "again"))
    assert 0 < far(weights, alone) < CLOSE
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    (reason,) = {noted(tmp_path, rank) for rank in range(4)}
    assert re.match(r"the training loss is (nan|inf) at step 1 of 50, its gradient norm nan", reason)


def in_pieces(folder: Path) -> None:
    here = world()
    with distributed.group(here):
        weights = trained(here, micro_batch=3)
    if weights:
        save_file(weights, folder / "weights.safetensors")


def test_two_processes_in_unequal_pieces(alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert together(2, in_pieces, tmp_path) == [0, 0]
    assert 0 < far(load_file(tmp_path / "weights.safetensors"), alone) < CLOSE


def one_fails(folder: Path, how: Callable[[], None]) -> None:
    """Process 1 ends at step 3; what the others say, and after how many seconds. None leaves before all have said it,
    for a worker lives on.
    """
    here = world()
    data, model = Digits(), SiT(hidden=8, depth=1, heads=2, patch=4)
    plain, calls, began = model.loss(Linear(), "velocity"), [], [0.0]

    def loss(module: torch.nn.Module, batch: Any) -> torch.Tensor:
        calls.append(0)
        if len(calls) == 4:
            began[0] = time.monotonic()
            if here.rank == 1:
                how()
        return plain(module, batch)

    module = model.module(data.shape, data.num_classes, null_noise=True)
    try:
        with distributed.group(here):
            train(module, data.open("train"), Training(steps=9, batch=12), loss=loss, num_classes=10, world=here)
    except (distributed.PeerFailed, ValueError) as error:
        kind = getattr(error, "kind", "")
        note(folder, here.rank, f"{time.monotonic() - began[0]:.3f} {type(error).__name__} {kind!r} {error}")
        end = time.monotonic() + 60
        while time.monotonic() < end and not all(noted(folder, rank) for rank in range(here.size)):
            time.sleep(0.02)


def raises() -> None:
    raise ValueError("no such image")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_that_fails_ends_all(tmp_path: Path) -> None:
    assert together(3, one_fails, tmp_path, raises, seconds=120) == [0, 0, 0]
    for rank in (0, 2):
        seconds, words = noted(tmp_path, rank).split(" ", 1)
        assert words == "PeerFailed 'ValueError' process 1 of the training failed: ValueError: no such image"
        assert float(seconds) < 60
    assert noted(tmp_path, 1).endswith("ValueError '' no such image")


def test_one_that_is_killed_ends_all(tmp_path: Path) -> None:
    note(tmp_path, 1, "nothing")
    assert together(2, one_fails, tmp_path, dies, seconds=120) == [0, -signal.SIGKILL]
    seconds, words = noted(tmp_path, 0).split(" ", 1)
    assert words.startswith("PeerFailed '' another process of the training died, or cannot be reached: ")
    assert float(seconds) < 60


SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
FOREIGN = {
    "torchrun": {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
    "a notebook server": {"RANK": "0", "MASTER_ADDR": "", "WORLD_SIZE": "many"},
    "srun": SLURM,
    "mpirun": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
}


@pytest.mark.parametrize("launcher", FOREIGN)
def test_other_launchers_make_no_group(launcher: str) -> None:
    assert world(FOREIGN[launcher]) == ALONE
    ours = distributed.environment(2, 4, 1234)
    assert world(FOREIGN[launcher] | ours) == World(2, 4, 2)
    assert rendezvous(FOREIGN[launcher] | ours) == ("127.0.0.1", 1234)
    assert world(distributed.alone(FOREIGN[launcher] | ours)) == ALONE


def test_a_group_of_slurm() -> None:
    """Only where our element says so: it then sets our own names from Slurm's."""
    step = {"SLURM_STEP_NODELIST": "node[7-8]", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}
    found = distributed.of_slurm(SLURM | step)
    assert world(found) == World(5, 8, 1)
    assert rendezvous(found)[0] == "node7"
    one = distributed.of_slurm(SLURM | step | {"SLURM_STEP_NUM_NODES": "1"})
    assert rendezvous(one) == ("127.0.0.1", rendezvous(found)[1])
    assert distributed.of_slurm({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == {}
    for wrong in ({}, {"SLURM_STEP_NUM_TASKS": "2"}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "2"}):
        with pytest.raises(ValueError, match="no such process"):
            distributed.of_slurm(wrong)


@pytest.mark.parametrize("rank", [None, "2", "first"])
def test_no_such_process(rank: str | None) -> None:
    environ = {"NAGBENCH_WORLD_SIZE": "2"} | ({} if rank is None else {"NAGBENCH_RANK": rank})
    with pytest.raises(ValueError, match=r"has NAGBENCH_WORLD_SIZE=2 and NAGBENCH_RANK=\w+: no such process"):
        world(environ)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node[01-04,07],gpu3", "node01"),
        ("gpu3,node[01-04]", "gpu3"),
        ("rack[2-3]n[010,012].site", "rack2n010.site"),
    ],
)
def test_where_processes_of_slurm_meet(nodes: str, first: str) -> None:
    environ = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}
    host, port = distributed.rendezvous_of_slurm(environ)
    assert host == first
    assert 15_000 <= port < 30_000
    assert distributed.rendezvous_of_slurm(environ | {"SLURM_RESTART_COUNT": "1"})[1] != port
    with pytest.raises(ValueError, match="no SLURM_STEP_NODELIST"):
        distributed.rendezvous_of_slurm({})
    with pytest.raises(ValueError, match="NAGBENCH_MEETING is None"):
        rendezvous(environ)


def test_a_node_that_only_slurm_knows() -> None:
    for name, found in (("n1.invalid", "127.0.0.7"), ("localhost", "localhost")):
        environ = {"SLURM_JOB_NODELIST": name, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.7"}
        assert distributed.rendezvous_of_slurm(environ)[0] == found


def test_at_which_address_the_others_are_awaited() -> None:
    """The one by which they know this process; of several machines, all where that name is of this machine alone."""
    port, machine = distributed.free_port(), socket.gethostname()
    known = socket.getaddrinfo(machine, port, type=socket.SOCK_STREAM)[0][4][0]
    outside = known if not known.startswith("127.") and known != "::1" else "0.0.0.0"
    for host, address in (
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "0.0.0.0"),
        (machine, outside),
        ("192.0.2.7", "0.0.0.0"),
    ):
        with distributed.listening(host, port) as listener:
            assert listener.getsockname()[:2] == (address, port)
    with distributed.listening("127.0.0.1", port), pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be"):
        distributed.listening("127.0.0.1", port)


def listens(folder: Path) -> None:
    """While it trains: the addresses at which this process listens, and those of its connections."""
    here = world()
    data, model = Digits(), SiT(hidden=8, depth=1, heads=2, patch=4)
    plain, seen = model.loss(Linear(), "velocity"), set()

    def loss(module: torch.nn.Module, batch: Any) -> torch.Tensor:
        seen.update(sockets(os.getpid()))
        return plain(module, batch)

    module = model.module(data.shape, data.num_classes, null_noise=True)
    with distributed.group(here):
        train(module, data.open("train"), Training(steps=4, batch=12), loss=loss, num_classes=10, world=here)
    note(folder, here.rank, "\n".join(sorted(f"{state} {address}" for state, address in seen)))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="it looks for sockets in /proc")
def test_a_group_of_one_machine_listens_to_it_alone(tmp_path: Path) -> None:
    assert together(2, listens, tmp_path) == [0, 0]
    for rank in range(2):
        found = [line.split() for line in noted(tmp_path, rank).splitlines()]
        assert any(state == "listens" for state, _ in found), "gloo does in each, and the first one's store"
        assert {address for _, address in found} == {"127.0.0.1"}


def test_processes_that_do_not_divide_the_batch() -> None:
    assert [World(rank, 4).part(16) for rank in (0, 3)] == [(0, 4), (12, 16)]
    for size, batch, fix in ((3, 16, "2 of them, or with batch: 15 or 18"), (4, 2, "2 of them, or with batch: 4")):
        with pytest.raises(
            ValueError, match=f"{batch} cannot be divided equally among {size} processes: train with {fix}"
        ):
            trained(World(0, size), Training(steps=1, batch=batch))


def hangs(folder: Path, rank: int) -> None:
    """All meet, then one is stopped, and the others wait for it in a collective operation."""
    here = world()
    with distributed.group(here, hung_s=3.0):
        distributed.barrier(here)
        note(folder, here.rank, "met")
        if here.rank == rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.barrier(here)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_the_others(tmp_path: Path, rank: int) -> None:
    """Within a bound, though it is not dead and sends no error."""
    processes = started(2, hangs, tmp_path, rank)
    try:
        other = processes[1 - rank]
        other.join(120)
        assert other.exitcode == heartbeat.EXIT
    finally:
        for process in processes:
            process.kill()
            process.join()
