"""Distributed training: several processes train one network. Our launchers tell each its rank in the environment.

If one process fails, all end.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import gc
import ipaddress
import itertools
import os
import re
import socket
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nag import heartbeat

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 600.0  # wait for the others: a lost machine sends no error
FAREWELL_S = 3.0  # how long the first process stays to tell the others why it failed

# Only these make a process one of a group, and only our own launchers set them: RANK, MASTER_ADDR and the like may be
# left from somebody else's, and every process under `srun` has a SLURM_PROCID.
NAMES = RANK, SIZE, LOCAL_RANK, MEETING = tuple(
    f"NAGBENCH_{name}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MEETING")
)
LOOPBACK = "127.0.0.1"


class World(NamedTuple):
    """This process among those of the training. local_rank: its number on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def part(self, batch: int) -> tuple[int, int]:
        """Start and end of this process's part of a global batch. Raises ValueError if the parts are not equal."""
        if batch % self.size:
            below, above = batch - batch % self.size, batch + self.size - batch % self.size
            sizes = " or ".join(str(n) for n in (below, above) if n)
            fewer = max(n for n in range(1, self.size) if batch % n == 0)
            raise ValueError(
                f"a global batch of {batch} cannot be divided equally among {self.size} processes: "
                f"train with {fewer} of them, or with batch: {sizes}"
            )
        each = batch // self.size
        return self.rank * each, (self.rank + 1) * each

    def device(self, device: str) -> str:
        """The device of this process: of several GPUs that it sees, its own."""
        if device != "cuda" or self.size == 1:
            return device
        import torch

        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


ALONE = World()


class PeerFailed(RuntimeError):
    """Another process of the training failed, so this one cannot go on. `kind`: the class of the other's error."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


def world(environ: Mapping[str, str] = os.environ) -> World:
    """The World that our own environment variables describe. Raises ValueError if they contradict each other."""
    rank, size, local = (environ.get(name) for name in (RANK, SIZE, LOCAL_RANK))
    if size is None:
        return ALONE
    if rank is None or not rank.isdecimal() or not size.isdecimal() or int(rank) >= int(size):
        raise ValueError(f"the environment has {SIZE}={size} and {RANK}={rank}: no such process")
    return World(int(rank), int(size), int(local or 0))


def alone(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without the variables of a group: for a process that works alone."""
    return {name: value for name, value in environ.items() if name not in NAMES}


def environment(rank: int, size: int, port: int, host: str = LOOPBACK, local_rank: int | None = None) -> dict[str, str]:
    """The variables for process `rank` of `size`. local_rank: by default `rank`, as on one machine.

    A group of one machine talks over its loopback interface alone, so that nobody outside can reach it.
    """
    local = rank if local_rank is None else local_rank
    variables = {RANK: str(rank), SIZE: str(size), LOCAL_RANK: str(local), MEETING: f"{host}:{port}"}
    variables |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # else torch warns of what nag.training needs
    if host == LOOPBACK and (name := _loopback_interface()):
        variables |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return variables


def _loopback_interface() -> str:
    """`lo` on Linux, `lo0` elsewhere; empty if unknown."""
    with contextlib.suppress(OSError):
        return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "")
    return ""


def free_port() -> int:
    """A port that nobody uses on any address of this machine."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def of_slurm(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables for a process that `srun` started as one of a group; none if it is the only one.

    Only an array task that was queued as a group calls it: every process of every Slurm job has such variables. Raises
    ValueError if Slurm does not say which processes there are.
    """
    rank, size, local = (environ.get(f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
    if size == "1":
        return {}
    if rank is None or size is None or not rank.isdecimal() or not size.isdecimal() or int(rank) >= int(size):
        raise ValueError(f"Slurm has SLURM_STEP_NUM_TASKS={size} and SLURM_PROCID={rank}: no such process")
    host, port = rendezvous_of_slurm(environ)
    return environment(int(rank), int(size), port, host, int(local or 0))


def rendezvous_of_slurm(environ: Mapping[str, str]) -> tuple[str, int]:
    """Rendezvous host and port of a job step: on its first node, or this machine if it is the only one. Raises
    ValueError if Slurm does not tell.
    """
    step = [environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    port = 15_000 + zlib.crc32(repr(step).encode()) % 15_000  # below the ports that a system hands out itself
    if environ.get("SLURM_STEP_NUM_NODES") == "1":
        return LOOPBACK, port
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST"))
    if not nodes:
        raise ValueError("no rendezvous for the processes of the training: Slurm gives no SLURM_STEP_NODELIST")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])
    launched = environ.get("SLURM_LAUNCH_NODE_IPADDR")  # in a batch job, the address of the first node
    if launched is not None:
        try:
            socket.getaddrinfo(host, port)
        except OSError:  # a name that only Slurm knows
            return launched, port
    return host, port


def rendezvous(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Rendezvous host and port. Raises ValueError if the environment does not tell."""
    host, _, port = environ.get(MEETING, "").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"no rendezvous for the processes of the training: {MEETING} is {environ.get(MEETING)!r}")
    return host, int(port)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens only on the address by which the other processes know this one.

    On several machines that name may be a loopback address, or not an address of this machine; then it listens on all
    addresses, as no single one is sure to be reachable.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if host != LOOPBACK and ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        family, address = socket.AF_INET, ("", port)
    try:
        return _bound(family, address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise OSError(error.errno, f"port {port} of {host} cannot be used to listen: {error.strerror}") from error
        return _bound(socket.AF_INET, ("", port))


def _bound(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


@functools.cache
def _rendezvous_store(host: str, port: int, world: World, timeout: datetime.timedelta) -> tuple[Any, Iterator[int]]:
    """The common store of the processes, which lives in the first one, and a counter that numbers their groups."""
    from torch import distributed

    first = world.rank == 0
    ours = listening(host, port).detach() if first else None  # by default the store listens on all addresses
    given: dict[str, Any] = {"is_master": first, "timeout": timeout, "master_listen_fd": ours}
    return distributed.TCPStore(host, port, world.size, **given), itertools.count()


@contextlib.contextmanager
def group(
    world: World, device: str = "cpu", timeout_s: float = TIMEOUT_S, hung_s: float = heartbeat.HUNG_S
) -> Iterator[None]:
    """A process group, with gloo on the CPU and NCCL on GPUs. An existing group is used, and not ended.

    If one process fails or is killed, all others soon raise PeerFailed. If one hangs for `hung_s` seconds, they end.
    """
    if world.size == 1:
        yield
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():  # by Ray Train, say
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(world.device(device))
    timeout = datetime.timedelta(seconds=timeout_s)
    # a store for each group, so that a process that is early for the next one does not read the last one's values
    common, numbers = _rendezvous_store(*rendezvous(), world, timeout)
    number = next(numbers)
    store = distributed.PrefixStore(f"group {number}", common)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=world.rank, world_size=world.size, timeout=timeout
    )
    failed = False
    long = datetime.timedelta(seconds=2 * hung_s)  # not reached: the heartbeat counts looks without a sign of life
    beats = distributed.TCPStore(*rendezvous(), world.size, False, long, wait_for_workers=False)
    try:
        with heartbeat.heartbeat(world.rank, world.size, distributed.PrefixStore(f"heartbeat {number}", beats), hung_s):
            yield
    except BaseException as error:
        failed = True
        cause = _cause(store, error)
        with contextlib.suppress(RuntimeError):
            if cause is None:
                store.set("failed", f"{type(error).__name__}\n{world.rank}\n{error}")
            if world.rank:
                store.add("left", 1)
        _forget(error)
        if cause is None:
            raise
        raise cause from error
    finally:
        _leave(on_gpu and failed)
        if failed and world.rank == 0:
            _stay(store, world)


def _cause(store: Any, error: BaseException) -> PeerFailed | None:
    """The failure of another process that ended this one's connection; None if the error is its own."""
    from torch import distributed

    words = str(error)
    lost = isinstance(error, distributed.DistError) or any(name in words for name in ("gloo", "NCCL"))
    if not isinstance(error, RuntimeError) or not lost:
        return None
    with contextlib.suppress(RuntimeError):
        if store.check(["failed"]):
            kind, rank, reason = store.get("failed").decode().split("\n", 2)
            return PeerFailed(f"process {rank} of the training failed: {kind}: {reason}", kind)
    first = next(iter(words.splitlines()), "")
    return PeerFailed(f"another process of the training died, or cannot be reached: {first}")


def _forget(error: BaseException) -> None:
    """Free the frames of an error. Gloo's connections end with the last object that uses them, and only then do the
    others notice; the process, and with it the error, may live on for a long time.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def _leave(abruptly: bool) -> None:
    """End the group. abruptly: without waiting for operations that cannot end any more."""
    from torch import distributed

    end = distributed.destroy_process_group
    if abruptly:
        end = getattr(distributed.distributed_c10d, "_abort_process_group", end)
    end()
    gc.collect()


def _stay(store: Any, world: World) -> None:
    """Wait until the others have read the failure from the store, which lives in this process."""
    end = time.monotonic() + FAREWELL_S
    with contextlib.suppress(RuntimeError):
        while store.add("left", 0) < world.size - 1 and time.monotonic() < end:
            time.sleep(0.02)


def broadcast(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """Broadcast from the first process, in place."""
    if world.size > 1:
        from torch import distributed

        distributed.broadcast(tensor, src=0)
    return tensor


def mean(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """The mean over processes, in place."""
    if world.size > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
        tensor /= world.size
    return tensor


def gather(world: World, tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of all processes, by rank."""
    if world.size == 1:
        return [tensor]
    import torch
    from torch import distributed

    gathered = [torch.empty_like(tensor) for _ in range(world.size)]
    distributed.all_gather(gathered, tensor)
    return gathered


def barrier(world: World) -> None:
    """Wait for the others."""
    if world.size > 1:
        from torch import distributed

        distributed.barrier()
