"""The server from which tests fork processes that have imported the libraries already. Python has one a process."""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import ForkServerContext

LIBRARIES = (
    *("torch._dynamo", "torch.nn.parallel", "safetensors.torch", "sklearn.datasets", "matplotlib.pyplot"),
    *("typer", "rich.progress", "pydantic", "yaml", "fsspec"),
)


@functools.cache
def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(LIBRARIES))
    return found
