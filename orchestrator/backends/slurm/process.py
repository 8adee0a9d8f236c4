"""Threads and caches of the process of an array task, set before anything heavy is imported."""

from __future__ import annotations

import os

from nag.distributed import of_slurm
from orchestrator.backends.local import ONE_THREAD

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "MPLCONFIGDIR", "XDG_CACHE_HOME")


def prepare(scratch: str | None, group: bool = False) -> None:
    """scratch: a folder of the node, as the site names it; a variable that this node does not have leaves it out.
    group: the tasks of this job step train one network together.
    """
    if group:
        os.environ.update(of_slurm())
    if scratch:
        base = os.path.expandvars(scratch)
        for name in CACHES if "$" not in base else ():
            os.environ.setdefault(name, os.path.join(base, "nagbench", name.lower()))
    for name, count in ONE_THREAD.items():
        os.environ.setdefault(name, count)
