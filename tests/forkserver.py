"""The server from which tests fork processes that have imported all they need. Python has one per process."""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import ForkServerContext

MODULES = (
    *("torch._dynamo", "torch.nn.parallel", "safetensors.torch", "scipy.stats", "matplotlib.pyplot"),
    *("matplotlib.backends.backend_svg", "PIL.PngImagePlugin"),
    *("typer", "rich.progress", "rich._emoji_codes", "pydantic", "yaml", "fsspec", "sqlite3"),
    *("tests.preloaded", "tests.orchestrator.forked"),
)


@functools.cache
def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(MODULES))
    return found
