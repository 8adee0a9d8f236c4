"""Cost of a training compared with a plain loop, and cost of resuming it.

python benchmarks/training.py            one CPU core, about a minute
python benchmarks/training.py --steps 20 --size S/4    quicker, noisier

The plain loop is in this file: the same network, AdamW, an average of the weights, and batches in memory, which
nag.training has to make. Steps of both alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nag.datasets.dataset import ArraySplit
from nag.interpolants import Linear
from nag.losses import Batch
from nag.models.sit import SiT
from nag.models.sizes import SIZES
from nag.training import Batches, Training, train
from orchestrator.store.store import Store
from orchestrator.tasks.checkpoints import Checkpoints
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.train import _new

CLASSES = 10


class Data:
    """Synthetic latents."""

    num_classes = CLASSES

    def __init__(self, shape: tuple[int, int, int], count: int = 512) -> None:
        self.shape, generator = shape, np.random.default_rng(0)
        self.split = ArraySplit(
            generator.normal(0, 0.5, (count, *shape)).astype(np.float32), generator.integers(0, CLASSES, count)
        )


def plain_loop(model: SiT, data: Data, training: Training) -> Callable[[], None]:
    """One step per call; x_0, noise, levels and labels of a few batches are in memory."""
    module = model.module(data.shape, CLASSES, null_noise=True).train()
    weights = list(module.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=training.lr, weight_decay=training.weight_decay)
    made = Batches(data.split, training, CLASSES, "cpu")
    batches: list[Batch] = [made(step) for step in range(4)]
    done = 0

    def step() -> None:
        nonlocal done
        x0, eps, t, told, y = batches[done % len(batches)]
        level = t.view(-1, 1, 1, 1)
        predicted = module((1 - level) * x0 + level * eps, told, y)
        loss = (predicted - (eps - x0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - training.ema)
        done += 1

    return step


def step_ratio(model: SiT, data: Data, batch: int, steps: int) -> tuple[float, float]:
    """Median ratio of ours to plain over alternating steps, and the milliseconds of ours, in CPU time."""
    training = Training(steps=steps + 3, batch=batch, noise_dropout=0.15)
    plain = plain_loop(model, data, training)
    pairs: list[tuple[float, float]] = []
    began = time.process_time()

    def report(step: int, loss: float, gradient: float) -> None:
        nonlocal began
        ours = time.process_time() - began
        start = time.process_time()
        plain()
        pairs.append((ours, time.process_time() - start))
        began = time.process_time()

    module = model.module(data.shape, CLASSES, null_noise=True)
    train(module, data.split, training, loss=model.loss(Linear(), "velocity"), num_classes=CLASSES, report=report)
    pairs = pairs[3:]  # warm-up
    return statistics.median(a / b for a, b in pairs), 1e3 * statistics.median(a for a, _ in pairs)


def resuming(model: SiT, data: Data, batch: int) -> tuple[float, float, float]:
    """Megabytes of a checkpoint, seconds to load it, and extra seconds of the first step after that. A new module is
    made, as in a task.
    """
    training = Training(steps=4, batch=batch, noise_dropout=0.15)
    loss = model.loss(Linear(), "velocity")
    ends: list[float] = []

    def went(resume: Any, resumed: bool, **options: Any) -> None:
        module = _new(model, data, training, resumed)
        given = {"loss": loss, "num_classes": CLASSES, "report": lambda *told: ends.append(time.perf_counter())}
        train(module, data.split, training, resume=resume, **given, **options)

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.open()
        with Checkpoints(Context(store, Options(checkpoint_s=0)), "training") as checkpoints:
            went(None, False, due=lambda: len(ends) == 2, save=checkpoints.save)
        step = ends[1] - ends[0]
        start = time.perf_counter()
        state = checkpoints.latest()
        loaded = time.perf_counter()
        assert state is not None
        ends.clear()
        went(state, True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        return size / 1e6, loaded - start, ends[0] - loaded - step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", default="B/4", choices=list(SIZES), help="of the network that is resumed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("A training step over one of a plain loop (bound: at most 1.05)")
    digits, latents = Data((1, 8, 8)), Data((4, 16, 16))
    cases: list[tuple[str, SiT, Data, int]] = [
        ("digits: 8 x 8, width 64, depth 4", SiT(hidden=64, depth=4, heads=4, patch=2), digits, 128),
        ("latents: 4 x 16 x 16, width 192, depth 6", SiT(hidden=192, depth=6, heads=3, patch=2), latents, 8),
    ]
    for name, model, data, batch in cases:
        ratio, ms = step_ratio(model, data, batch, given.steps)
        print(f"  {name}, batch {batch}: {ratio:.3f} ({ms:.0f} ms)")
    print("Resuming, beyond loading (bound: at most 2 s)")
    model = SiT(**SIZES[given.size])
    size, loading, beyond = resuming(model, Data((4, 32, 32), 32), 2)
    print(f"  SiT-{given.size}, a checkpoint of {size:,.0f} MB: {beyond:.2f} s, after {loading:.2f} s of loading")


if __name__ == "__main__":
    main()
