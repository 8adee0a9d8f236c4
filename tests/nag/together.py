"""Processes that train together: forked from a server that has imported torch once, each with its own environment."""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from nag.distributed import environment


@functools.cache
def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    heavy = ["torch._dynamo", "torch.nn.parallel", "safetensors.torch", "sklearn.datasets"]
    found.set_forkserver_preload([*heavy, "tests.nag.test_distributed"])
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(size: int, work: Callable[..., None], *arguments: Any, seconds: float = 200) -> list[int | None]:
    """`work(*arguments)` in `size` processes with the variables of nag.distributed; their exit codes."""
    port = free_port()
    processes = [
        context().Process(target=_begin, args=(environment(rank, size, port), work, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def _begin(environ: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(environ)
    torch.set_num_threads(1)
    work(*arguments)


def noted(folder: Path, rank: int) -> str:
    """What a process wrote down with `note`."""
    path = folder / f"{rank}.txt"
    return path.read_text() if path.exists() else ""


def note(folder: Path, rank: int, text: str) -> None:
    (folder / f"{rank}.txt").write_text(text)
