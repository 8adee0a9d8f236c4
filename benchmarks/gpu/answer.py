"""A real answer: plain, CFG and NAG of a SiT-S/2 that was trained here

On small photographs (--images), a network of some minutes; 10,000 samples an arm with equal noise, 50 steps of Euler.
FID of a small convolutional network that was trained on the same classes, to the training images; each guided arm's
difference from plain sampling is paired and without its bias in N, with its 95 % interval. Within one training.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import halving
from nag.datasets.dataset import ArraySplit, to_uint8
from nag.field import NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.interpolants import Linear
from nag.intervals import paired_difference
from nag.metrics.fid import FID
from nag.models.sit import SiT
from nag.models.sizes import SIZES
from nag.noise import Noise, labels
from nag.numerics import Precision, arithmetic
from nag.registry import build
from nag.sampling import sample
from nag.training import Training, train

ARMS: dict[str, tuple[Any, ...]] = {"plain": (), "CFG 1.5": (CFG(1.5),), "NAG 1": (NAG(1.0),)}
SIDE = 32  # pixels
TRIED = 60  # training steps that measure the speed
TRAINED = 0.5  # share of the time that is left then
SMALLEST = 200  # samples of an arm below which nothing is scored


def run(bench: Bench) -> None:
    if bench.images is None:
        bench.note("no photographs: name a folder with train/ and test/ of class folders with --images")
        return
    try:
        dataset = build(
            "datasets", "image_folder", path=str(bench.images), resolution=8 if bench.tiny else SIDE, flip=True
        )
        split = dataset.open("train")
    except ImportError:
        bench.note("no photographs: pillow, which reads them, is not installed")
        return
    pixels, classes = split.images(np.arange(len(split))), split.labels(np.arange(len(split)))
    split = ArraySplit(pixels, classes)  # in memory: reading files is not what is measured
    precision = Precision(dtype="bfloat16", compile=bench.device.startswith("cuda"))
    of, steps = _trained(bench, split, dataset, precision)
    network = Features(pixels, classes, bench.device, 20 if bench.tiny else 1500)
    reference = {"features": network(to_uint8(pixels))}
    count = _count(bench, of)
    if count < SMALLEST and not bench.tiny:
        bench.note(f"only {count} samples an arm would fit: nothing is scored")
        return
    plain: tuple[Any, Any] | None = None
    for arm, guidance in ARMS.items():
        x = torch.cat([_sampled(bench, of, guidance, part) for part in np.split(np.arange(count), _cuts(count))])
        scores = FID()({"features": network(to_uint8(x.numpy()))}, reference)
        score, influence = scores["values"]["fid"], scores["arrays"]["influence"]
        plain = plain or (score, influence)
        difference = (None, None, None)
        if arm != "plain" and score["extrapolated"] is not None:
            difference = paired_difference(score["extrapolated"], influence, plain[0]["extrapolated"], plain[1])
        bench.row(
            arm=arm,
            samples=count,
            FID=score["value"],
            **{"FID - plain": difference[0], "low": difference[1], "high": difference[2]},
            **{"evaluations a sample": 50 * (1 + len(guidance))},
        )
    bench.note(_stamp(of, steps, len(split), precision, count))


def _stamp(of: NetworkField, steps: int, images: int, precision: Precision, count: int) -> str:
    """All that the numbers depend on, as JSON."""
    stamp = {
        "network": "SiT-S/2",
        "state": of.shape,
        "training steps": steps,
        "training images, with flips": images,
        "precision": precision.dtype + ", compiled" * precision.compile,
        "sampler": "euler 50",
        "seed": 0,
        "count": count,
        "extractor": "four convolutions, 64 values, trained on the same images",
        "reference": "training images",
    }
    return "stamp: " + json.dumps(stamp)


def _trained(bench: Bench, split: Any, dataset: Any, precision: Precision) -> tuple[NetworkField, int]:
    """A network that was trained for this part's share of the time, and its steps."""
    model = SiT(hidden=32, depth=2, heads=2, patch=2) if bench.tiny else SiT(**SIZES["S/2"])
    batch = 16 if bench.tiny else 256
    given: dict[str, Any] = {"loss": model.loss(Linear(), "velocity"), "num_classes": dataset.num_classes}

    def trained(steps: int, ends: list[float], at_once: int) -> tuple[Any, dict[str, torch.Tensor]]:
        module = model.module(dataset.shape, dataset.num_classes, null_noise=True, seed=0)
        training = Training(steps=steps, batch=batch, lr=2e-4, noise_dropout=0.15, ema=0.999, precision=precision)
        told = lambda *_: ends.append(time.perf_counter())  # noqa: E731
        return module, train(module, split, training, device=bench.device, micro_batch=at_once, report=told, **given)

    ends: list[float] = []
    tried = 12 if bench.tiny else TRIED
    at_once, _ = halving(bench, batch, lambda n: trained(tried, ends, n))
    each = (ends[-1] - ends[-tried // 2]) / (tried // 2 - 1)
    steps = tried if bench.tiny else max(tried, int(TRAINED * bench.left / each))
    bench.note(f"a training step took {1e3 * each:.1f} ms; {steps:,} steps fit")
    module, weights = trained(steps, [], at_once)
    module.load_state_dict(weights)
    module.to(bench.device).eval().requires_grad_(False)
    of = NetworkField(module, Linear(), "velocity", dataset.shape, dataset.num_classes, True, True)
    return precision.applied(of), steps


def _sampled(bench: Bench, of: NetworkField, guidance: tuple[Any, ...], indices: np.ndarray) -> torch.Tensor:
    return sample(
        of,
        build("samplers", "euler", steps=5 if bench.tiny else 50),
        noise=Noise(0, indices, of.shape, bench.device),
        labels=labels(0, indices, of.num_classes),
        guidance=guidance,
    ).cpu()


def _count(bench: Bench, of: NetworkField) -> int:
    """Samples of an arm: 10,000, or as many as the time that is left allows."""
    if bench.tiny:
        return 200
    part = np.arange(500)
    _sampled(bench, of, (), part)
    began = time.perf_counter()
    _sampled(bench, of, (), part)
    branches = sum(1 + len(guidance) for guidance in ARMS.values())
    fits = int(0.8 * bench.left / branches / (time.perf_counter() - began) * len(part))
    return min(10_000, fits // 500 * 500)


def _cuts(count: int) -> list[int]:
    return list(range(500, count, 500))


class Features:
    """Four convolutions that tell the classes apart; images uint8 (N, 3, H, W) -> (N, 64) before the last layer."""

    def __init__(self, pixels: np.ndarray, classes: np.ndarray, device: str, steps: int) -> None:
        self.device, generator = device, torch.Generator().manual_seed(0)
        widths = (3, 32, 64, 128, 64)
        self.weights = [
            (torch.randn(b, a, 3, 3, generator=generator) * math.sqrt(2 / (9 * a))).to(device).requires_grad_()
            for a, b in itertools.pairwise(widths)
        ]
        self.head = torch.zeros(int(classes.max()) + 1, 64, device=device, requires_grad=True)
        x, y = torch.from_numpy(to_uint8(pixels)).to(device), torch.from_numpy(classes).to(device)
        optimizer = torch.optim.AdamW([*self.weights, self.head], lr=1e-3, weight_decay=0.05)
        with arithmetic(torch.device(device).type):
            for _ in range(steps):
                rows = torch.randint(len(y), (128,), generator=generator).to(device)
                loss = functional.cross_entropy(self._features(x[rows]) @ self.head.T, y[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 127.5 - 1
        for number, weight in enumerate(self.weights):
            x = functional.conv2d(x, weight, padding=1)
            x = functional.max_pool2d(functional.relu(x), 2) if number < len(self.weights) - 1 else x
        return x.mean(dim=(2, 3))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad(), arithmetic(torch.device(self.device).type):
            parts = torch.from_numpy(images).split(1000)
            return torch.cat([self._features(part.to(self.device)).cpu() for part in parts]).numpy()
