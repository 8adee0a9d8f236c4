"""What Precision says of itself: how far samples are from those in float32."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from nag.field import NetworkField
from nag.models.sit import SiT
from nag.noise import Noise, labels
from nag.precision import Precision
from nag.registry import build
from nag.sampling import sample


def field() -> NetworkField:
    """A network whose output is not zero, as that of a new one is."""
    module = SiT(hidden=32, depth=2, heads=2, patch=2).module((1, 8, 8), 10, null_noise=True, seed=1)
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if name.startswith("final_layer") or "adaLN" in name:
            weight.data.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return NetworkField(module.eval(), build("interpolants", "linear"), "velocity", (1, 8, 8), 10, True, True)


def samples(precision: Precision) -> torch.Tensor:
    indices = np.arange(16)
    return sample(
        precision.applied(field()),
        build("samplers", "heun", steps=8),
        noise=Noise(0, indices, (1, 8, 8)),
        labels=labels(0, indices, 10),
        guidance=(build("guidance", "cfg", scale=1.5), build("guidance", "nag", scale=1.0)),
    )


def test_float32_is_the_field_itself() -> None:
    plain = field()
    assert Precision().applied(plain) is plain


def test_bfloat16() -> None:
    difference = samples(Precision(dtype="bfloat16")) - samples(Precision())
    assert difference.dtype == torch.float32
    assert 1e-6 < float(difference.square().mean().sqrt()) < 5e-2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")
def test_compile() -> None:
    assert float((samples(Precision(compile=True)) - samples(Precision())).abs().max()) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 exists on GPUs only")
def test_tf32_flag() -> None:
    Precision(tf32=True).applied(field())
    assert torch.backends.cuda.matmul.allow_tf32
    Precision().applied(field())
    assert not torch.backends.cuda.matmul.allow_tf32
