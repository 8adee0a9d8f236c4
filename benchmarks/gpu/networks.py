"""The networks that are measured, with random weights, and their operations by formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nag.datasets.dataset import ArraySplit
from nag.field import NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.interpolants import VP, Linear
from nag.models.dit import DiT
from nag.models.sit import SiT
from nag.models.sizes import SIZES
from nag.numerics import Precision

TINY = {"hidden": 32, "depth": 2, "heads": 2, "patch": 2}
CLASSES = 1000
PRECISIONS = {
    "float32": Precision(),
    "TF32": Precision(tf32=True),
    "bf16": Precision(dtype="bfloat16"),
    "bf16 + compile": Precision(dtype="bfloat16", compile=True),
}
GUIDANCES: dict[str, tuple[Any, ...]] = {"plain": (), "CFG": (CFG(1.5),), "CFG + NAG": (CFG(1.5), NAG(1.0))}
BRANCHES = {"plain": 1, "CFG": 2, "CFG + NAG": 3}  # evaluations of the network for each sample and step


def model(name: str, tiny: bool) -> SiT | DiT:
    """`SiT-XL/2` or `DiT-XL/2`, or another size; tiny: the same kind with two narrow blocks."""
    family, _, size = name.partition("-")
    fields = TINY if tiny else SIZES[size]
    return SiT(**fields) if family == "SiT" else DiT(**fields, learned_variance=True)


def field(model: SiT | DiT, shape: tuple[int, int, int], device: str, classes: int = CLASSES) -> NetworkField:
    """The network in float32, with both null conditions, none of its layers zero."""
    module = filled(model.module(shape, classes, null_noise=True, seed=0)).to(device).eval().requires_grad_(False)
    return _field(model, module, shape, classes)


def large(model: SiT | DiT, shape: tuple[int, int, int], device: str, classes: int = CLASSES) -> NetworkField:
    """The same with weights drawn on the device: those of `field` take 20 s for an XL network."""
    module = drawn(model, shape, device, classes).eval().requires_grad_(False)
    return _field(model, module, shape, classes)


def drawn(model: SiT | DiT, shape: tuple[int, int, int], device: str, classes: int = CLASSES) -> torch.nn.Module:
    with torch.device("meta"):
        module = model.module(shape, classes, null_noise=True, seed=0)
    module.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.normal_(0, 0.02)
    return module


def _field(model: SiT | DiT, module: torch.nn.Module, shape: tuple[int, int, int], classes: int) -> NetworkField:
    is_sit = isinstance(model, SiT)
    interpolant, predicts = (Linear(), "velocity") if is_sit else (VP(), "eps")
    return NetworkField(module, interpolant, predicts, shape, classes, True, True)  # type: ignore[arg-type]


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """The same module: layers that start at zero get random weights, else its output would be zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return module


def flops(model: SiT | DiT, shape: tuple[int, int, int]) -> float:
    """Operations of one evaluation for one sample, a multiply-add as two: a block of width D on T patches has 24 T D^2
    in its products, 4 T^2 D in its attention and 12 D^2 in its modulation. Embeddings and the last layer, below 1 %,
    are left out.
    """
    patches = shape[1] * shape[2] / model.patch**2
    inner = model.mlp_ratio / 4
    products = (8 + 16 * inner) * patches * model.hidden**2
    return model.depth * (products + 4 * patches**2 * model.hidden + 12 * model.hidden**2)


def latents(shape: tuple[int, int, int], count: int) -> ArraySplit:
    """Latents that mean nothing."""
    generator = np.random.default_rng(0)
    return ArraySplit(
        generator.normal(0, 0.5, (count, *shape)).astype(np.float32), generator.integers(0, CLASSES, count)
    )
