"""Heartbeat between the processes of a training.

A process that hangs (stopped, or stuck in a driver or a file system) sends no error, so the others would wait for it in
a collective operation, and hold their GPUs. Each process counts in the rendezvous store, and looks at the counts of
the others. Looks are counted, not seconds: a job that its scheduler suspends as a whole has not hung.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

HUNG_S = 300.0  # without a sign of life, until a process counts as hung
LOOKS = 10  # in that time
EXIT = 75  # exit code of a process that ends because another one hangs
LEFT = "left"

Connect = Callable[[datetime.timedelta], Any]  # a new connection to the store, whose operations may take so long


@contextlib.contextmanager
def heartbeat(rank: int, size: int, connect: Connect, hung_s: float = HUNG_S) -> Iterator[None]:
    """End this process, `rank` of `size`, with exit code EXIT, if another one of the group shows no sign of life for
    `hung_s` seconds while the body runs. Whoever started the group ends the rest of it.
    """
    stop = threading.Event()
    watch = threading.Thread(target=_Watch(rank, size, connect, hung_s / LOOKS, stop).run, daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join(1.0)


class _Watch:
    def __init__(self, rank: int, size: int, connect: Connect, every_s: float, stop: threading.Event) -> None:
        self.rank, self.connect, self.every_s, self.stop = rank, connect, every_s, stop
        self.store: Any = None
        self.seen = {other: "" for other in range(size) if other != rank}
        self.missed = dict.fromkeys(self.seen, 0)  # rank -> looks since its count changed

    def run(self) -> None:
        beat = 0
        while not self.stop.wait(self.every_s):
            beat += 1
            if not self._look(beat):
                return  # the first process, which has the store, has ended: everybody notices that
            for rank, missed in self.missed.items():
                if missed >= LOOKS and not self.stop.is_set():
                    self._end(rank)
        with contextlib.suppress(RuntimeError, OSError, AttributeError):  # or there was no time to connect
            self.store.set(str(self.rank), LEFT)

    def _look(self, beat: int) -> bool:
        """Count, and read the others' counts. False if there is no store any more."""
        began = time.monotonic()
        try:
            if self.store is None:
                self.store = self.connect(datetime.timedelta(seconds=self.every_s))
            self.store.set(str(self.rank), f"{beat} {platform.node()}")
            for rank in self.missed:
                now = self.store.get(str(rank)).decode() if self.store.check([str(rank)]) else ""
                alive = now == LEFT or now != self.seen[rank]
                self.missed[rank] = 0 if alive else self.missed[rank] + 1
                self.seen[rank] = now
        except (RuntimeError, OSError):  # torch's errors of a store are RuntimeErrors
            self.store = None
            if time.monotonic() - began < self.every_s / 2:  # refused, and no silence
                return False
            if self.rank:
                self.missed[0] += 1
        return True

    def _end(self, rank: int) -> None:
        place = self.seen.get(rank, "").partition(" ")[2]
        words = f"process {rank} of the training{f' on {place}' if place else ''} hangs: no sign of life for "
        sys.stderr.write(f"{words}{self.every_s * LOOKS:g} s; ending all\n")
        sys.stderr.flush()
        os._exit(EXIT)
