"""Prefetch: a thread reads the next parts of a split while the caller works on the current one."""

from __future__ import annotations

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
