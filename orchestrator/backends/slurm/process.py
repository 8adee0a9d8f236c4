"""The process of an array task: threads and cache folders, set before anything heavy is imported; what it says."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from nag.distributed import of_slurm
from orchestrator.backends.local import ONE_THREAD

STARTED = "NAGBENCH_STARTED"  # the file that `say_started` makes
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "MPLCONFIGDIR", "XDG_CACHE_HOME")


def prepare(scratch: str | None, group: bool = False, umask: int | None = None) -> None:
    """scratch: a folder on the node for caches, ignored if it has a variable that is not set there. group: whether the
    processes of this job step train one network together. umask: of whoever submitted it, as the job was submitted
    with a stricter one (queueing.py).
    """
    if umask is not None:
        os.umask(umask)
    if group:
        os.environ.update(of_slurm())
    if scratch:
        base = os.path.expandvars(scratch)
        for name in CACHES if "$" not in base else ():
            os.environ.setdefault(name, os.path.join(base, "nagbench", name.lower()))
    for name, count in ONE_THREAD.items():
        os.environ.setdefault(name, count)


def say_started() -> None:
    """Tell the batch script that our code runs and can read the store: what ends now is not the site's fault."""
    if place := os.environ.get(STARTED):
        with contextlib.suppress(OSError):
            Path(place).touch()


def say(text: str) -> None:
    """Write a line into the log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()
