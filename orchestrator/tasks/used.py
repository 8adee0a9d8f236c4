"""What the process of a task uses. Records have it, so that a site's requests can be compared with it.

host_gb    the most memory of the process so far, in GB
gpu_gb     the most memory of its GPU that its tensors took, and what CUDA itself takes
gpu_has_gb the memory of its GPU
gpu_busy   the share of the task's time in which its GPU ran a kernel, of any process
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from typing import Any

from nag.gpu_load import GpuLoad, utilization

CONTEXT_GB = 0.5  # of a CUDA context, which torch does not count


def used(device: str, started: float) -> dict[str, float]:
    """started: when the task began (time.time)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {"host_gb": round(peak / 1e9, 3)}
    if not device.startswith("cuda"):
        return found
    import torch

    found["gpu_has_gb"] = round(torch.cuda.get_device_properties(torch.device(device)).total_memory / 1e9, 3)
    found["gpu_gb"] = round(torch.cuda.max_memory_reserved(device) / 1e9 + CONTEXT_GB, 3)
    load = gpu_load(device)
    busy = load.mean(time.time() - started) if load else None
    return found if busy is None else {**found, "gpu_busy": round(busy, 3)}


@functools.cache
def gpu_load(device: str) -> GpuLoad | None:
    """The readings of a GPU's load in this process, which begin with the first call; None where it is not known."""
    if not device.startswith("cuda"):
        return None
    import torch

    about: Any = torch.cuda.get_device_properties(torch.device(device))
    uuid = getattr(about, "uuid", None)
    read = utilization(str(uuid)) if uuid is not None else None
    return GpuLoad(read) if read else None
