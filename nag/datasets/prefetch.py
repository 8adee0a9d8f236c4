"""Threads that read data: of a batch, and ahead of the caller (a split's next parts, while it works on one)."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.dataset import Split

Part = tuple["np.ndarray", "np.ndarray"]


def prefetch(split: Split, parts: Iterable[np.ndarray], depth: int = 2) -> Iterator[Part]:
    """Images and labels of every part of indices, in order; at most `depth` parts are read in advance."""

    def read(part: np.ndarray) -> Part:
        images = split.images(part)
        return images, split.labels(part)

    waiting: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        try:
            for part in parts:
                waiting.append(thread.submit(read, part))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@functools.cache
def reader_threads(process: int) -> ThreadPoolExecutor:
    """The threads that read and decode files, of a process; a forked one gets its own. Pillow releases the GIL while
    it decodes.
    """
    del process
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(16, max(2, count)), thread_name_prefix="decode")
