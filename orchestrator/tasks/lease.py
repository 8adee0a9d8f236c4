"""A lease keeps two engines from doing one training twice. It is advisory: if it fails, the first writer of the result
still wins, and only time is lost.

Lease files are numbered and never changed. The holder renews its lease by creating the next number. So does a newcomer
that takes over a lease that has expired, whose holder was a process of this machine that is gone, or that this process
itself left behind: the request for it succeeded, and its answer was lost. So a lease names its owner.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.errors import CorruptFile, NagbenchError
from orchestrator.store.store import Store
from orchestrator.tasks.context import HeldElsewhere

LASTS_S = 120.0
_left: set[str] = set()  # owners of this process that hold nothing any more, whatever the store says


@contextmanager
def lease(store: Store, digest: str) -> Iterator[None]:
    """Hold the lease of a task while it is done. Raises HeldElsewhere if another process has it."""
    folder, owner = f"leases/{digest}", uuid.uuid4().hex
    number = _last(store, folder)
    if number and (holder := _holder(store, _name(folder, number))):
        raise HeldElsewhere(digest, holder)
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, folder, number + 1, owner, stop), daemon=True)
    try:
        if not _claim(store, _name(folder, number + 1), owner):
            raise HeldElsewhere(digest)
        keeper.start()
        try:
            yield
        finally:
            stop.set()
            keeper.join()
            with suppress(NagbenchError):  # a store that cannot be written now: the work is done, and the lease expires
                for name in store.list(folder):
                    store.delete(f"{folder}/{name}")
    finally:
        _left.add(owner)


def _holder(store: Store, name: str) -> dict[str, Any] | None:
    """The record of a lease that somebody holds; None if it has expired, or nobody does."""
    try:
        holder = store.read_record(name)
    except CorruptFile:
        return None
    free = holder["until"] <= time.time() or holder.get("owner") in _left or _gone(holder)
    return None if free else holder


def _claim(store: Store, name: str, owner: str) -> bool:
    """Create a lease, or find that this owner has created it before: the answer was lost."""
    if store.create_record(name, {**_mine(), "owner": owner}):
        return True
    try:
        return bool(store.read_record(name).get("owner") == owner)
    except CorruptFile:
        return False


def _keep(store: Store, folder: str, number: int, owner: str, stop: threading.Event) -> None:
    while not stop.wait(LASTS_S / 4):
        number += 1
        try:
            if not _claim(store, _name(folder, number), owner):
                return  # another process took over; both go on, the first result stays
            store.delete(_name(folder, number - 1))
        except NagbenchError:  # the store cannot be written: try again next time
            number -= 1


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def _last(store: Store, folder: str) -> int:
    names = store.list(folder)
    return int(names[-1].partition(".")[0]) if names else 0


def _mine() -> dict[str, Any]:
    return {"until": time.time() + LASTS_S, "host": platform.node(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str:
    """When a process of this machine started, in clock ticks since boot; "" if it has ended or there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *others = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else others[18]  # a zombie has ended, and its parent has not asked how
    except OSError:
        return ""


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    return (
        holder.get("host") == platform.node()
        and os.path.exists("/proc/self")
        and _born(holder.get("pid", 0)) != holder.get("born", "")
    )
