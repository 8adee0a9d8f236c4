"""Random numbers of torch that are a function of a key."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch's CPU generator from `key` inside: for modules that are not ours, with initial weights
    and dropout of their own. The global generator is afterwards as it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(repr(key).encode()))
        yield
