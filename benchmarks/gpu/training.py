"""Training SiT-XL/2, and two processes on one card

A step is forward, backward, AdamW and the average of the weights, on latents in memory. `of peak` counts three forward
passes a step; what activation checkpointing computes again is not counted.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import halving, memory_gb, peak
from benchmarks.gpu.networks import CLASSES, PRECISIONS, drawn, flops, latents, model
from benchmarks.gpu.together import trained
from nag.distributed import ALONE, environment, free_port
from nag.interpolants import Linear
from nag.training import Training, train

BACKWARD = 3  # forward passes that a step is worth
STEPS = 7
# batch, at once, precision, activation checkpointing; most valuable first
ORDER = (
    (256, 128, "bf16 + compile", False),
    (32, 32, "bf16", False),
    (256, 256, "bf16", True),
    (32, 32, "bf16 + compile", False),
    (32, 32, "bf16", True),
    (32, 32, "TF32", False),
)
TINY_ORDER = ((4, 4, "bf16", True),)
TOGETHER_S = 60.0  # at most, for the processes that train together


def run(bench: Bench) -> None:
    _together(bench)
    for wanted, at_once, precision, recompute in TINY_ORDER if bench.tiny else ORDER:
        if bench.left < 0:
            bench.note("the time of this part ended before all rows")
            return
        size, took = halving(bench, at_once, lambda n, p=precision, r=recompute, b=wanted: _step(bench, b, n, p, r))
        memory, shape = memory_gb(bench.device), _shape(bench)
        most, work = peak(bench.device, precision), BACKWARD * flops(model("SiT-XL/2", bench.tiny), shape) * wanted
        bench.row(
            batch=wanted,
            precision=precision,
            checkpointing=recompute,
            **{
                "at once": size,
                "images/s": wanted / took,
                "ms a step": 1e3 * took,
                "of peak": work / took / most if most else None,
                "memory GB": memory,
            },
        )


def _shape(bench: Bench) -> tuple[int, int, int]:
    return (4, 8, 8) if bench.tiny else (4, 32, 32)


def _step(bench: Bench, batch: int, at_once: int, precision: str, recompute: bool) -> float:
    """Median seconds of a step, after three."""
    described, shape = model("SiT-XL/2", bench.tiny), _shape(bench)
    ends: list[float] = []
    train(
        drawn(described, shape, bench.device),
        latents(shape, max(64, batch)),
        Training(steps=STEPS, batch=batch, noise_dropout=0.15, precision=PRECISIONS[precision]),
        loss=described.loss(Linear(), "velocity"),
        num_classes=CLASSES,
        device=bench.device,
        micro_batch=at_once,
        recompute=recompute,
        report=lambda *told: ends.append(time.perf_counter()),  # told after the loss was read, which waits for the GPU
    )
    return statistics.median(b - a for a, b in itertools.pairwise(ends[2:]))


def _together(bench: Bench) -> None:
    """Weights of two processes on this device against those of one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        _trained(bench, 2, file)
        one, two = trained(bench.device, ALONE), np.load(file)
        worst = max(float(np.abs(one[name] - two[name]).max()) for name in one)
    bench.row(check="two processes against one", error=worst, bound=1e-6, holds=worst <= 1e-6)


def _trained(bench: Bench, size: int, file: Path) -> None:
    """Let `size` processes train together, and the first one write the weights. Raises RuntimeError."""
    port, root = free_port(), str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "benchmarks.gpu.together", bench.device, str(file)]
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment(rank, size, port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        ends = time.monotonic() + (TOGETHER_S if bench.device != "cpu" else 5 * TOGETHER_S)
        for process in processes:
            _, told = process.communicate(timeout=max(1.0, ends - time.monotonic()))
            if process.returncode:
                raise RuntimeError(f"a process of the training failed: {told.strip().splitlines()[-1:]}")
    finally:
        for process in processes:
            process.kill()
