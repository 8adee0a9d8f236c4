"""Where the time of a step goes

A profile of 20 steps of Euler-Maruyama with CFG in bf16, compiled. On a GPU `ms` is the GPU's own time, on a CPU the
CPU's; idle is what is left of the wall time. Then the noise, which is drawn on the CPU: it is hidden if it takes less
time than the step that it is drawn for.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import halving, synchronise
from benchmarks.gpu.networks import GUIDANCES, PRECISIONS, large, model
from nag.finite import EVERY, FiniteStates
from nag.noise import Noise
from nag.registry import build
from nag.sampling import guided

STEPS = 20
DRAWS = {"latents 4 x 32 x 32": (4, 32, 32), "pixels 3 x 256 x 256": (3, 256, 256)}


class Marked:
    """A callable whose work is a range of the profile; all else is the inner one's."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner, self._name = inner, name

    def __call__(self, *given: Any) -> Any:
        with record_function(self._name):
            return self._inner(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def run(bench: Bench) -> None:
    shape = (4, 8, 8) if bench.tiny else (4, 32, 32)
    precision = PRECISIONS["bf16" if bench.tiny else "bf16 + compile"]
    of = precision.applied(large(model("SiT-XL/2", bench.tiny), shape, bench.device))
    step = 0.0
    for wanted in (4,) if bench.tiny else (128, 512):
        if bench.left > 0:
            _, step = halving(bench, wanted, lambda n: _profiled(bench, of, n))
    for name, drawn in DRAWS.items():
        for n in (2,) if bench.tiny else (128, 512):
            if bench.left > 0:
                _drawn(bench, name, drawn, n)
    bench.note(f"a step of the last profile took {1e3 * step:.1f} ms")


def _profiled(bench: Bench, of: Any, n: int) -> float:
    """Rows of one batch; seconds of a step."""
    every = 1 if bench.device == "cpu" else EVERY
    mixed = Marked(guided(Marked(of, "network"), GUIDANCES["CFG"]), "guidance")
    y = torch.zeros(n, dtype=torch.int64, device=bench.device)

    def steps(count: int) -> None:
        noise = Marked(Noise(0, np.arange(n), of.shape, bench.device), "noise")
        finite = FiniteStates(count, every)
        with record_function("all"):
            build("samplers", "euler_maruyama", steps=count)(mixed, y, noise, observe=Marked(finite, "checks"))
            finite.read()

    steps(2)
    on_gpu = bench.device.startswith("cuda")
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    synchronise(bench.device)
    with profile(activities=activities) as found:
        began = time.perf_counter()
        steps(STEPS)
        synchronise(bench.device)
        wall = time.perf_counter() - began
    averages = sorted(found.key_averages(), key=lambda event: event.device_type == DeviceType.CPU)
    events = {event.key: event for event in averages}  # of a range, what was launched in it; not its span on the GPU

    def ms(name: str) -> float:
        event = events.get(name)
        if event is None:
            return 0.0
        return (event.device_time_total if on_gpu else event.cpu_time_total) / 1e3 / STEPS

    names = ("network", "guidance", "noise", "checks", "all")
    busy = sum(event.self_device_time_total for event in averages if _of_the_gpu(event, names)) / 1e3 / STEPS
    copies = sum(event.self_device_time_total for event in averages if event.key.startswith("Memcpy")) / 1e3 / STEPS
    network, guidance, noise, checks = (ms(name) for name in names[:-1])
    parts = {"guidance": guidance - network, "noise": noise, "checks for NaN": checks}
    parts["sampler arithmetic"] = ms("all") - guidance - noise - checks
    # of compiled code torch counts some kernels twice in a range, so the network has what the others leave
    parts["network"] = busy - copies - sum(parts.values()) if on_gpu else network
    parts["copies"] = copies
    parts["idle"] = 1e3 * wall / STEPS - busy if on_gpu else 0.0
    for part, took in parts.items():
        bench.row(batch=n, part=part, **{"ms a step": took, "share": took * STEPS / (1e3 * wall)})
    waits = sum(events[key].count for key in ("cudaStreamSynchronize", "cudaDeviceSynchronize") if key in events)
    bench.note(f"batch {n}: {waits / STEPS:.2f} synchronisations with the GPU a step")
    return wall / STEPS


def _of_the_gpu(event: Any, ranges: tuple[str, ...]) -> bool:
    """Whether it is a kernel or a copy, and not a range of ours."""
    return event.device_type != DeviceType.CPU and event.key not in ranges


def _drawn(bench: Bench, name: str, shape: tuple[int, int, int], n: int) -> None:
    """What a sampler waits for a draw: at once, and when it was drawn ahead during 50 ms of other work."""
    for ahead in (False, True):
        noise = Noise(0, np.arange(n), shape, bench.device, prefetch=ahead)
        waited = []
        for k in range(1, 7):
            began = time.perf_counter()
            noise(k)
            synchronise(bench.device)
            waited.append(time.perf_counter() - began)
            time.sleep(0.005 if bench.tiny else 0.05)
        bench.row(noise=name, batch=n, ahead=ahead, **{"waits ms": 1e3 * float(np.median(waited[2:]))})
