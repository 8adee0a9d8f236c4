"""An array task waits while its store cannot be read: a server may be restarting, or a folder not mounted yet."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.store.store import Store

PATIENCE_S = 600.0  # how long to retry while the store cannot be read or written
UNSEEN_S = 30.0  # the same while the folder of the store is not there: it may be mounted at its first use
WAIT_S = 5.0


def patiently(store: Store, read: Callable[[], Any]) -> Any:
    """Call `read`; retry while the store cannot be read, for PATIENCE_S, or UNSEEN_S if its folder is not there."""
    began = time.monotonic()
    while True:
        try:
            return read()
        except (OSError, EnvironmentProblem, CorruptFile):
            waited = time.monotonic() - began
            if waited > UNSEEN_S and store.local and not os.path.isdir(store.root):
                words = f"{platform.node()} has no folder {store.root}, the store of this sweep"
                raise EnvironmentProblem(words) from None
            if waited > PATIENCE_S:
                raise
            time.sleep(WAIT_S)
