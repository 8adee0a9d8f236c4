"""The device: whether it can be used, how long work takes on it, its peak, its memory."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nag.hardware import kind, unusable

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

# Dense peaks in 10^12 operations a second, from NVIDIA's data sheets: bfloat16, TF32, float32.
PEAKS = {
    r"B200": (2250, 1100, 75),
    r"H200|GH200|H100.*(HBM3|SXM)": (989, 494, 67),
    r"H100": (756, 378, 51),  # PCIe
    r"A100": (312, 156, 19.5),
    r"L40S": (362, 183, 91.6),
    r"A10\b": (125, 62.5, 31.2),
    r"L4\b": (121, 60, 30.3),
    r"RTX 4090": (165, 82.6, 82.6),
}


class NoDevice(Exception):
    """The device cannot be used; `str(error)` is one sentence for the user."""


def opened(device: str) -> str:
    """The device, checked by a small product. Raises NoDevice."""
    import torch

    if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", device):
        raise NoDevice(f"--device {device}: known are cuda, cuda:0, cuda:1, ... and cpu.")
    if device == "cpu":
        return device
    why = unusable(device)
    if why is not None:
        raise NoDevice(f"--device {device}: {why} To see that the script runs: --device cpu --tiny.")
    torch.cuda.set_device(torch.device(device).index or 0)
    return device


def stamp(device: str, tiny: bool) -> dict[str, Any]:
    """What the numbers belong to."""
    import torch

    on_gpu = device.startswith("cuda")
    return {
        "card": kind(device)["model"],
        "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if on_gpu else None,
        "driver": _driver() if on_gpu else "",
        "cuda": torch.version.cuda if on_gpu else None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "tiny": tiny,
    }


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = re.search(r"\b\d+\.\d+(\.\d+)?\b", file.read())
    except OSError:
        return ""
    return f"driver {found[0]}" if found else ""


def peak(device: str, precision: str) -> float | None:
    """Operations a second at most, by the data sheet; None for a card that is not in the table."""
    if device == "cpu":
        return None
    name = str(kind(device)["model"])
    found = next((row for pattern, row in PEAKS.items() if re.search(pattern, name)), None)
    if found is None:
        return None
    return 1e12 * found[0 if "bf16" in precision else 1 if "TF32" in precision else 2]


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(device: str, work: Callable[[], object]) -> float:
    """How long the work takes, with all that it leaves to the GPU."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def freed(device: str) -> None:
    """Give back what is not used, and count memory from here."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory_gb(device: str) -> float | None:
    """The most memory in use since `freed`."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e9 if device.startswith("cuda") else None


def out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def halving(bench: Bench, batch: int, work: Callable[[int], Any]) -> tuple[int, Any]:
    """`work(batch)`, with half the batch as often as the memory is too small, which is noted. Raises the error that one
    sample at a time still has.
    """
    while True:
        freed(bench.device)
        try:
            return batch, work(batch)
        except RuntimeError as error:
            if not out_of_memory(error) or batch == 1:
                raise
        bench.note(f"out of memory at batch {batch}: measured at {batch // 2}")
        batch //= 2
