"""Several processes that train one network. Each is told by its environment which it is; one failing ends all."""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import itertools
import os
import re
import socket
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 600.0  # how long one waits for the others, where a machine was lost without a word
FAREWELL_S = 3.0  # how long the first process stays to tell the others why it failed

# rank, size, rank on this machine: as torchrun and Ray Train name them, and as `srun` does
NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


class World(NamedTuple):
    """Which of how many processes this is. local_rank: its number among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def part(self, batch: int) -> tuple[int, int]:
        """First and end of this process's part of a global batch. Raises ValueError where the parts are not equal."""
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
    """What the environment says. Raises ValueError where it contradicts itself."""
    for names in NAMES:
        rank, size, local = (environ.get(name) for name in names)
        if size is None:
            continue
        if rank is None or not rank.isdecimal() or not size.isdecimal() or int(rank) >= int(size):
            raise ValueError(f"the environment has {names[1]}={size} and {names[0]}={rank}: no such process")
        return World(int(rank), int(size), int(local or 0))
    return ALONE


def environment(rank: int, size: int, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """The variables for process `rank` of `size`: on this machine, or where each sees no GPUs but its own."""
    here = {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    here |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # else torch advises against what nag.training needs
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), **here}


def free_port() -> int:
    """A port that nobody uses on any address of this machine."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def meeting(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port at which the processes meet. Raises ValueError where the environment does not tell."""
    if "MASTER_ADDR" in environ and "MASTER_PORT" in environ:
        return environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST"))
    if not nodes:
        raise ValueError("where do the processes of the training meet? Set MASTER_ADDR and MASTER_PORT")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])
    step = [environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    port = 15_000 + zlib.crc32(repr(step).encode()) % 15_000  # below the ports that a system gives to anybody
    launched = environ.get("SLURM_LAUNCH_NODE_IPADDR")  # in a batch job, the address of the first node
    if launched is not None:
        try:
            socket.getaddrinfo(host, port)
        except OSError:  # a name that only Slurm knows
            return launched, port
    return host, port


@functools.cache
def _meet(host: str, port: int, world: World, timeout: datetime.timedelta) -> tuple[Any, Iterator[int]]:
    """What the processes tell each other by, which the first one holds for as long as it lives; and numbers for their
    groups, since these processes met.
    """
    from torch import distributed

    store = distributed.TCPStore(host, port, world.size, is_master=world.rank == 0, timeout=timeout)
    return store, itertools.count()


@contextlib.contextmanager
def group(world: World, device: str = "cpu", timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """The processes joined, by gloo on the CPU and by NCCL on GPUs. A group that is there already is used and left.

    Where one fails, with an exception or by being killed, all others soon raise PeerFailed.
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
    # a store for each group, so that one who comes early to the next does not read what is of the one before
    common, numbers = _meet(*meeting(), world, timeout)
    store = distributed.PrefixStore(f"group {next(numbers)}", common)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=world.rank, world_size=world.size, timeout=timeout
    )
    failed = False
    try:
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
    """The failure of another process by which this one's connection ended; None if the error is its own."""
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
    """What was alive where an error was raised. Gloo's connections end with the last object that uses them, and on
    that the others notice; a process may live on for long, and the error with it.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def _leave(abruptly: bool) -> None:
    """Abruptly: without waiting for what is under way, and now cannot end."""
    from torch import distributed

    end = distributed.destroy_process_group
    if abruptly:
        end = getattr(distributed.distributed_c10d, "_abort_process_group", end)
    end()
    gc.collect()


def _stay(store: Any, world: World) -> None:
    """The others ask this process, which holds the store, why they were left."""
    end = time.monotonic() + FAREWELL_S
    with contextlib.suppress(RuntimeError):
        while store.add("left", 0) < world.size - 1 and time.monotonic() < end:
            time.sleep(0.02)


def broadcast(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """In place, what the first process has."""
    if world.size > 1:
        from torch import distributed

        distributed.broadcast(tensor, src=0)
    return tensor


def mean(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """In place, the mean over processes."""
    if world.size > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
        tensor /= world.size
    return tensor


def gather(world: World, tensor: torch.Tensor) -> list[torch.Tensor]:
    """What every process has, by rank."""
    if world.size == 1:
        return [tensor]
    import torch
    from torch import distributed

    found = [torch.empty_like(tensor) for _ in range(world.size)]
    distributed.all_gather(found, tensor)
    return found


def barrier(world: World) -> None:
    """Wait for the others."""
    if world.size > 1:
        from torch import distributed

        distributed.barrier()
