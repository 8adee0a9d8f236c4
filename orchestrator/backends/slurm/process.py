"""Set threads and cache folders of an array task's process, before anything heavy is imported."""

from __future__ import annotations

import os

from nag.distributed import of_slurm
from orchestrator.backends.local import ONE_THREAD

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "MPLCONFIGDIR", "XDG_CACHE_HOME")


def prepare(scratch: str | None, group: bool = False) -> None:
    """scratch: a folder on the node for caches, ignored if it has a variable that is not set there. group: whether the
    processes of this job step train one network together.
    """
    if group:
        os.environ.update(of_slurm())
    if scratch:
        base = os.path.expandvars(scratch)
        for name in CACHES if "$" not in base else ():
            os.environ.setdefault(name, os.path.join(base, "nagbench", name.lower()))
    for name, count in ONE_THREAD.items():
        os.environ.setdefault(name, count)
