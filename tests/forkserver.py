"""The server from which tests fork processes that have imported all they need. Python has one per process."""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import ForkServerContext


@functools.cache
def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded", "tests.orchestrator.forked"])
    return found
