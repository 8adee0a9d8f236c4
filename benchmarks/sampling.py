"""Cost of sampling, as ratios within one run, for a SiT of the digits size with random weights.

    .venv/bin/python benchmarks/sampling.py

Every ratio is the median over rounds in which the fast and the plain way both have a turn, in CPU seconds of one
thread; on a shared machine only ratios count.
Bounds: Euler-Maruyama at least 1.9 times as fast as with separate network calls for drift and score; guidance never
slower than separate calls, and faster at small batches (benchmarks/guidance.py has every method); noise at 1,000 draws
of (4, 32, 32) per second and core.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # as a worker

import numpy as np
import torch

from nag.field import NULL_NOISE, Calls, NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.guidance.terms import Interval
from nag.interpolants import Linear, convert
from nag.models.sit import SiT
from nag.noise import Noise, normal
from nag.samplers.euler import Euler
from nag.samplers.euler_maruyama import EulerMaruyama
from nag.samplers.fixed_step import Draw, levels, predict
from nag.sampling import guided, sample

SHAPE, CLASSES = (1, 8, 8), 10
BATCHES = (1, 16, 100)
S, W = 1.5, 1.0


def network() -> NetworkField:
    """With random weights, also where training starts at zero."""
    module = SiT(hidden=64, depth=4, heads=4, patch=2).module(SHAPE, CLASSES, null_noise=True, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return NetworkField(module.eval(), Linear(), "velocity", SHAPE, CLASSES, True, True)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(plain: Callable[[], object], fast: Callable[[], object], rounds: int = 15) -> tuple[float, float]:
    """How many times as fast `fast` is, and its seconds: medians over rounds in which both have a turn."""
    plain(), fast()
    pairs = []
    for number in range(rounds):
        first, second = (plain, fast) if number % 2 else (fast, plain)
        one, other = seconds(first), seconds(second)
        pairs.append((one, other) if number % 2 else (other, one))
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


def euler_maruyama_in_two_calls(field: NetworkField, y: torch.Tensor, noise: Draw, steps: int) -> torch.Tensor:
    """Euler-Maruyama with SiT's defaults, and separate network calls for drift and score."""
    x, path = noise(0), field.interpolant
    for k, (t, t_next) in enumerate(pairwise([*levels(1.0, 0.04, steps - 1), 0.0]), start=1):
        v = convert(predict(field, x, y, t), field.predicts, "velocity", x, t, path)
        s = convert(predict(field, x, y, t), field.predicts, "score", x, t, path)
        d = path.sigma(t)
        mean = x + (t_next - t) * (v - d * s)
        x = mean if t_next == 0.0 else mean + math.sqrt(2 * d * (t - t_next)) * noise(k)
    return x


def separately(field: NetworkField, cfg: bool, nag: bool) -> Callable[..., torch.Tensor]:
    """The guided field with one network call per branch."""

    def mixed(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        d = field(x, t, y)
        out = d
        if cfg:
            out = out + (S - 1) * (d - field(x, t, torch.full_like(y, CLASSES)))
        if nag:
            out = out + W * (d - field(x, torch.full_like(t, NULL_NOISE), y))
        return out

    return mixed


def euler_maruyama(field: NetworkField, n: int, steps: int = 10) -> None:
    y, noise, sampler = torch.arange(n) % CLASSES, Noise(0, range(n), SHAPE), EulerMaruyama(steps)

    def in_two_calls() -> torch.Tensor:
        return euler_maruyama_in_two_calls(field, y, noise, steps)

    def ours() -> torch.Tensor:
        return sampler(field, y, noise)

    assert torch.allclose(ours(), in_two_calls(), atol=1e-5, rtol=1e-5)
    times, took = ratio(in_two_calls, ours, rounds=25)
    print(f"  batch {n:3}: {times:.2f} times, {n / took:,.0f} images/s at {steps} steps")


def guidance(field: NetworkField, name: str, n: int) -> None:
    """`name` is made of cfg and nag."""
    x, y, t = Noise(0, range(n), SHAPE)(0), torch.arange(n) % CLASSES, torch.full((n,), 0.5)
    ours = guided(field, tuple(g for part, g in (("cfg", CFG(S)), ("nag", NAG(W))) if part in name))
    theirs, repeat = separately(field, "cfg" in name, "nag" in name), max(1, 100 // n)
    assert torch.allclose(ours(x, t, y), theirs(x, t, y), atol=1e-5, rtol=1e-5)

    def again(f: Callable[..., torch.Tensor]) -> None:
        for _ in range(repeat):
            f(x, t, y)

    times, took = ratio(lambda: again(theirs), lambda: again(ours), rounds=31)
    print(f"  {name:9} batch {n:3}: {times:.2f} times, {repeat * n / took:,.0f} guided evaluations/s")


def main() -> None:
    torch.set_num_threads(1)
    field = network()
    print("Euler-Maruyama, one call per step instead of two (bound: 1.9)")
    for n in BATCHES:
        euler_maruyama(field, n)
    print("Guidance, all branches in one call against one call each (bound: never below 1, above it at small batch)")
    for name in ("cfg", "nag", "cfg + nag"):
        for n in BATCHES:
            guidance(field, name, n)
    print("Guidance within an interval: network calls that were made for one sample of 50 Euler steps")
    for interval in (Interval(), Interval(0.3, 0.8)):
        counter = Calls()
        both = (CFG(S, interval=interval), NAG(W, interval))
        sample(counter.counted(field), Euler(50), noise=Noise(0, [0], SHAPE), labels=[0], guidance=both)
        print(f"  cfg + nag, t in [{interval.low:g}, {interval.high:g}]: {counter.made}")

    print("Noise (4, 32, 32), one core (bound: 1,000 us)")
    for n in (1, 16, 100):
        each = min(seconds(partial(normal, 0, np.arange(n), 1, (4, 32, 32))) for _ in range(20)) / n
        print(f"  batch {n:3}: {each * 1e6:.0f} us a draw")
    wait = {ahead: waited(ahead) for ahead in (False, True)}
    print(f"  a device busy 20 ms a step waits {wait[False]:.2f} ms for 16 draws, {wait[True]:.2f} ms if made ahead")


def waited(ahead: bool) -> float:
    """Milliseconds a step that noise(k) takes while something else than this core is busy between two steps."""
    noise, found = Noise(0, range(16), (4, 32, 32), prefetch=ahead), []
    for k in range(1, 20):
        began = time.perf_counter()
        noise(k)
        found.append(time.perf_counter() - began)
        time.sleep(0.02)
    return 1e3 * statistics.median(found[1:])


if __name__ == "__main__":
    main()
