"""Processes that train together: forked from a server that has imported torch once, each with its own environment."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nag.distributed import environment
from tests.forkserver import context


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(size: int, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """The processes of `together`, for a test that watches them."""
    port = free_port()
    processes = [
        context().Process(target=_begin, args=(environment(rank, size, port), work, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def together(size: int, work: Callable[..., None], *arguments: Any, seconds: float = 200) -> list[int | None]:
    """`work(*arguments)` in `size` processes with the variables of nag.distributed; their exit codes."""
    processes = started(size, work, *arguments)
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


def sockets(pid: int) -> set[tuple[str, str]]:
    """The TCP sockets of a process, of either IP version: ("listens" or "connected", its own address)."""
    inodes = set()
    for place in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed just now
            name = os.readlink(place)
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                parsed = ipaddress.ip_address(address)
                parsed = getattr(parsed, "ipv4_mapped", None) or parsed
                found.add(("listens" if fields[3] == "0A" else "connected", str(parsed)))
    return found


def noted(folder: Path, rank: int) -> str:
    """What a process wrote down with `note`."""
    path = folder / f"{rank}.txt"
    return path.read_text() if path.exists() else ""


def note(folder: Path, rank: int, text: str) -> None:
    (folder / f"{rank}.txt").write_text(text)
