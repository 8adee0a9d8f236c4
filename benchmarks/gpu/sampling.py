"""Sampling of SiT-XL/2 and DiT-XL/2 at 256 x 256, beside the official way

Images a second at 250 steps, from the time of a few. `ratio`: how many times as fast as the official way at the same
batch and guidance (float32 with TF32). `of peak`: operations by formula over the card's dense peak in that precision.
`first s`: the first two steps, with what is compiled for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import official
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import halving, memory_gb, peak, seconds
from benchmarks.gpu.networks import BRANCHES, GUIDANCES, PRECISIONS, flops, large, model
from nag.field import NetworkField
from nag.finite import EVERY, FiniteStates
from nag.noise import Noise
from nag.numerics import Precision
from nag.registry import build
from nag.sampling import guided

SHAPE, TINY_SHAPE = (4, 32, 32), (4, 8, 8)
STEPS = 250
FEW, MORE = 2, 6  # steps; the difference in time is that of steps alone
SAMPLERS = {"SiT-XL/2": "euler_maruyama", "DiT-XL/2": "ddpm"}
# network, guidance, precision, batch; most valuable first
ORDER = [
    *(("SiT-XL/2", "CFG", precision, 128) for precision in ("bf16 + compile", "bf16", "TF32")),
    *(("SiT-XL/2", guidance, "bf16 + compile", 128) for guidance in ("plain", "CFG + NAG")),
    *(("SiT-XL/2", "CFG", "bf16 + compile", batch) for batch in (32, 512)),
    *(("DiT-XL/2", "CFG", precision, 128) for precision in ("bf16 + compile", "TF32")),
    ("SiT-XL/2", "CFG", "float32", 128),
    *(("SiT-XL/2", "CFG", "bf16", batch) for batch in (32, 256, 512)),
    *(("SiT-XL/2", guidance, "bf16", 128) for guidance in ("plain", "CFG + NAG")),
    *(("DiT-XL/2", guidance, "bf16", 128) for guidance in ("plain", "CFG", "CFG + NAG")),
    *(("SiT-XL/2", "plain", precision, 128) for precision in ("TF32", "float32")),
]
TINY_ORDER = [("SiT-XL/2", "CFG", "bf16", 4), ("DiT-XL/2", "plain", "TF32", 4), ("DiT-XL/2", "CFG + NAG", "float32", 4)]


def run(bench: Bench) -> None:
    shape = TINY_SHAPE if bench.tiny else SHAPE
    networks: dict[str, NetworkField] = {}
    applied: dict[tuple[str, str], NetworkField] = {}
    theirs: dict[tuple[Any, ...], float] = {}
    for name, guidance, precision, wanted in TINY_ORDER if bench.tiny else ORDER:
        if bench.left < 0:
            bench.note("the time of this part ended before all rows")
            return
        if name not in networks:
            applied.clear()  # one large network at a time
            networks = {name: large(model(name, bench.tiny), shape, bench.device)}
        if (name, precision) not in applied:
            applied[name, precision] = PRECISIONS[precision].applied(networks[name])
        batch, (each, first) = halving(
            bench,
            wanted,
            lambda n, of=applied[name, precision], how=guidance, which=SAMPLERS[name]: _ours(bench, of, how, which, n),
        )
        memory, key = memory_gb(bench.device), (name, guidance == "plain", batch)
        if guidance != "CFG + NAG" and key not in theirs:
            theirs[key] = _theirs(bench, networks[name], name, guidance == "CFG", batch)
        work = flops(model(name, bench.tiny), shape) * BRANCHES[guidance] * batch
        most = peak(bench.device, precision)
        bench.row(
            network=name,
            guidance=guidance,
            precision=precision,
            batch=batch,
            **{
                "images/s": batch / (STEPS * each),
                "ms a step": 1e3 * each,
                "of peak": work / each / most if most else None,
                "memory GB": memory,
                "first s": first,
                "ratio": theirs[key] / each if key in theirs and guidance != "CFG + NAG" else None,
            },
        )


def _ours(bench: Bench, of: NetworkField, guidance: str, sampler: str, n: int) -> tuple[float, float]:
    """Seconds of a step as nagbench samples: noise of the samples' own, states checked; and of the first two."""
    mixed = guided(of, GUIDANCES[guidance])
    y = torch.zeros(n, dtype=torch.int64, device=bench.device)
    every = 1 if bench.device == "cpu" else EVERY

    def steps(count: int) -> None:
        finite = FiniteStates(count, every)
        build("samplers", sampler, steps=count)(
            mixed, y, Noise(0, np.arange(n), of.shape, bench.device), observe=finite
        )
        finite.read()

    return _step(bench.device, steps)


def _theirs(bench: Bench, network: NetworkField, name: str, cfg: bool, n: int) -> float:
    way = official.sit_sde if name.startswith("SiT") else official.dit_ddpm
    network = Precision().applied(network)
    made, (each, _) = halving(bench, n, lambda b: _step(bench.device, lambda c: way(network, b, c, cfg, bench.device)))
    return each * n / made


def _step(device: str, steps: Callable[[int], object]) -> tuple[float, float]:
    first = seconds(device, lambda: steps(2))  # compiles, and fills caches
    few = seconds(device, lambda: steps(FEW))
    more = seconds(device, lambda: steps(MORE))
    return max(more - few, 1e-9) / (MORE - FEW), first
