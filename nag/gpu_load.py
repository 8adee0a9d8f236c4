"""How busy a GPU is, as its driver tells (NVML), measured by a thread beside the work."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

EVERY_S = 0.5
KEPT = 7200  # readings, of the last hour


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def utilization(uuid: str, load: Callable[[str], Any] = ctypes.CDLL) -> Callable[[], float] | None:
    """A function that reads the share of time, 0 to 1, in which the GPU with this UUID ran a kernel lately, by all of
    its processes. None where the driver does not tell, as for a part of a GPU (MIG). load: opens the library.
    """
    try:
        nvml = load("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, reading = ctypes.c_void_p(), _Utilization()
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
        return None
    if nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(reading)):
        return None

    def read() -> float:
        nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(reading))
        return reading.gpu / 100

    return read


class GpuLoad:
    """Readings of a GPU's utilization, taken every EVERY_S for as long as this process lives."""

    def __init__(self, read: Callable[[], float], every_s: float = EVERY_S) -> None:
        self.read, self.every_s = read, every_s
        self.readings: deque[tuple[float, float]] = deque(maxlen=KEPT)  # time.monotonic, share
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.readings.append((time.monotonic(), self.read()))
            time.sleep(self.every_s)

    def mean(self, last_s: float) -> float | None:
        """Of the last seconds; None if there is no reading."""
        since = time.monotonic() - last_s
        shares = [share for then, share in list(self.readings) if then >= since]
        return sum(shares) / len(shares) if shares else None
