"""What precision does to FID

One small SiT, trained here on scikit-learn's digits, sampled with equal noise in each precision: FID minus that of
float32, paired and without its bias in N, with its 95 % interval; `apart` is how far samples are, in root mean square
of pixels in [-1, 1]. Distances are of the digits network, to the training images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import Bench
from nag.field import NetworkField
from nag.guidance.cfg import CFG
from nag.interpolants import Linear
from nag.intervals import paired_difference
from nag.metrics.fid import FID
from nag.models.sit import SiT
from nag.noise import Noise, labels
from nag.numerics import Precision
from nag.registry import build
from nag.sampling import sample
from nag.training import Training, train

PRECISIONS = {
    "bf16": Precision(dtype="bfloat16"),
    "TF32": Precision(tf32=True),
    "compile": Precision(compile=True),
    "bf16 + compile": Precision(dtype="bfloat16", compile=True),
}
AT_ONCE = 500


def run(bench: Bench) -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        bench.note("no FID of precisions: scikit-learn, which brings the digits, is not installed")
        return
    on_gpu = bench.device.startswith("cuda")
    steps, count = (20, 200) if bench.tiny else (600, 10_000) if on_gpu else (400, 2_000)
    of, extract, reference = _trained(bench, steps)
    plain, score, influence = _scored(bench, of, extract, reference, count)
    bench.note(f"SiT of width 64 and depth 4 after {steps} steps; {count:,} samples, CFG 1.5, 20 steps of Euler")
    bench.note(f"FID in float32 {score['value']:.3f}")
    for name, precision in PRECISIONS.items():
        if bench.left < 0:
            bench.note(f"no time was left for {name} and what follows")
            return
        if (precision.tf32 and not on_gpu) or (precision.compile and bench.tiny):
            continue
        x, other, theirs = _scored(bench, precision.applied(of), extract, reference, count)
        difference, low, high = paired_difference(other["extrapolated"], theirs, score["extrapolated"], influence)
        bench.row(
            precision=name,
            samples=count,
            **{
                "FID difference": difference,
                "low": low,
                "high": high,
                "apart": float((x - plain).square().mean() ** 0.5),
            },
        )


def _trained(bench: Bench, steps: int) -> tuple[NetworkField, Any, dict[str, np.ndarray]]:
    """The generator, the extractor, and the features of the training images."""
    from nag.datasets.dataset import to_uint8
    from nag.datasets.digits import Digits
    from nag.features.digits import Digits as Features

    split, model = Digits().open("train"), SiT(hidden=64, depth=4, heads=4, patch=2)
    module = model.module((1, 8, 8), 10, null_noise=True, seed=0)
    given: dict[str, Any] = {"loss": model.loss(Linear(), "velocity"), "num_classes": 10, "device": bench.device}
    weights = train(module, split, Training(steps=steps, batch=128, lr=1e-3, noise_dropout=0.15), **given)
    module.load_state_dict(weights)
    module.to(bench.device).eval().requires_grad_(False)
    features = Features(steps=20) if bench.tiny else Features()
    extract = features.open(features.train(split, lambda done, of: None), bench.device)
    images = torch.from_numpy(to_uint8(split.images(np.arange(len(split)))))
    reference = {"features": extract(images)["features"].cpu().numpy()}
    return NetworkField(module, Linear(), "velocity", (1, 8, 8), 10, True, True), extract, reference


def _scored(
    bench: Bench, of: NetworkField, extract: Any, reference: dict[str, np.ndarray], count: int
) -> tuple[torch.Tensor, Any, np.ndarray]:
    """Samples on the CPU, their FID, and the influence of each."""
    from nag.datasets.dataset import to_uint8

    parts = []
    for first in range(0, count, AT_ONCE):
        indices = np.arange(first, min(first + AT_ONCE, count))
        parts.append(
            sample(
                of,
                build("samplers", "euler", steps=4 if bench.tiny else 20),
                noise=Noise(0, indices, of.shape, bench.device),
                labels=labels(0, indices, of.num_classes),
                guidance=CFG(1.5),
            ).cpu()
        )
    x = torch.cat(parts)
    features = extract(torch.from_numpy(to_uint8(x.numpy())))["features"].cpu().numpy()
    scores = FID()({"features": features}, reference)
    return x, scores["values"]["fid"], scores["arrays"]["influence"]
