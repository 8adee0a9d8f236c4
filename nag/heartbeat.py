"""Heartbeat between the processes of a training.

A process that hangs (stopped, or stuck in a driver or a file system) sends no error, so the others would wait for it in
a collective operation, and hold their GPUs. Each process counts in the rendezvous store, and looks at the counts of
the others. Looks are counted, not seconds: a job that its scheduler suspends as a whole has not hung.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from typing import Any

HUNG_S = 300.0  # without a sign of life, until a process counts as hung
LOOKS = 10  # in that time
EXIT = 75  # exit code of a process that ends because another one hangs
LEFT = "left"


@contextlib.contextmanager
def heartbeat(rank: int, size: int, store: Any, hung_s: float = HUNG_S) -> Iterator[None]:
    """End this process, `rank` of `size`, with exit code EXIT, if another one of the group shows no sign of life for
    `hung_s` seconds while the body runs. Whoever started the group ends the rest of it.

    store: a connection of its own to the store of the first process, since the main thread may be waiting in another.
    """
    watch = _Watch(rank, size, store, hung_s / LOOKS)
    threads = [threading.Thread(target=body, daemon=True) for body in (watch.look_on, watch.guard)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        watch.stop.set()
        for thread in threads:
            thread.join(1.0)


class _Watch:
    def __init__(self, rank: int, size: int, store: Any, every_s: float) -> None:
        self.rank, self.store, self.every_s = rank, store, every_s
        self.stop = threading.Event()
        self.looks = 0  # that were answered
        self.seen = {other: "" for other in range(size) if other != rank}
        self.missed = dict.fromkeys(self.seen, 0)  # rank -> looks since its count changed

    def look_on(self) -> None:
        try:
            while not self.stop.wait(self.every_s):
                self._look()
            self.store.set(str(self.rank), LEFT)
        except (RuntimeError, OSError):  # the first process, which has the store, has ended: everybody notices that
            self.stop.set()

    def _look(self) -> None:
        """Count, and read the others' counts."""
        self.store.set(str(self.rank), f"{self.looks} {platform.node()}")
        for rank in self.missed:
            now = self.store.get(str(rank)).decode() if self.store.check([str(rank)]) else ""
            self.missed[rank] = 0 if now == LEFT or now != self.seen[rank] else self.missed[rank] + 1
            self.seen[rank] = now
        self.looks += 1
        for rank, missed in self.missed.items():
            if missed >= LOOKS and not self.stop.is_set():
                self._end(rank)

    def guard(self) -> None:
        """If the first process hangs, its store does not answer at all."""
        last, silent = 0, 0
        while not self.stop.wait(self.every_s):
            silent = 0 if self.looks != last else silent + 1
            last = self.looks
            if silent > LOOKS and self.rank:
                self._end(0)

    def _end(self, rank: int) -> None:
        place = self.seen.get(rank, "").partition(" ")[2]
        words = f"process {rank} of the training{f' on {place}' if place else ''} hangs: no sign of life for "
        sys.stderr.write(f"{words}{self.every_s * LOOKS:g} s; ending all\n")
        sys.stderr.flush()
        os._exit(EXIT)
