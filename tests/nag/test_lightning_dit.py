"""LightningDiT, by the names of its released weights, against its forward pass written out number by number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import nag
from nag.models.lightning_dit import LightningDiT
from nag.models.transformer import positions
from nag.seeding import seeded
from tests.nag.published import Weights, attended, embedded, heads_of, linear, unpatched

SHAPE, CLASSES, HIDDEN, HEADS = (4, 6, 6), 10, 24, 3
INNER = 64  # two thirds of 4 x 24
SIDE = 3


def state(qk_norm: bool) -> Weights:
    """Random weights with the names and shapes of a release, patch 2, one block."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (HIDDEN, 4, 2, 2),
        "x_embedder.proj.bias": (HIDDEN,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, HIDDEN),
        "final_layer.norm_final.weight": (HIDDEN,),
        "blocks.0.norm1.weight": (HIDDEN,),
        "blocks.0.norm2.weight": (HIDDEN,),
    }
    if qk_norm:
        shapes |= {f"blocks.0.attn.{name}_norm.weight": (HIDDEN // HEADS,) for name in "qk"}
    for name, out, inputs in (
        ("t_embedder.mlp.0", HIDDEN, 256),
        ("t_embedder.mlp.2", HIDDEN, HIDDEN),
        ("blocks.0.attn.qkv", 3 * HIDDEN, HIDDEN),
        ("blocks.0.attn.proj", HIDDEN, HIDDEN),
        ("blocks.0.mlp.w12", 2 * INNER, HIDDEN),
        ("blocks.0.mlp.w3", HIDDEN, INNER),
        ("blocks.0.adaLN_modulation.1", 6 * HIDDEN, HIDDEN),
        ("final_layer.linear", 16, HIDDEN),
        ("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN),
    ):
        shapes |= {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}
    with seeded(0):
        weights = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    angle = torch.tensor([[place_angle(token, channel) for channel in range(8)] for token in range(SIDE**2)])
    fixed = {"pos_embed": positions(SIDE, SIDE, HIDDEN), "feat_rope.freqs_cos": angle.cos()}
    return weights | fixed | {"feat_rope.freqs_sin": angle.sin()}


def place_angle(token: int, channel: int) -> float:
    """Of a head of width 8: two pairs of channels for the row, then two for the column."""
    place = token // SIDE if channel < 4 else token % SIDE
    return place * (1.0 if channel % 4 < 2 else 10000 ** (-2 / 4))


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Each pair (a, b) as the complex number a + ib, times exp(i angle)."""
    out = x.clone()
    for token in range(SIDE**2):
        for first in range(0, 8, 2):
            angle = place_angle(token, first)
            a, b = x[..., token, first], x[..., token, first + 1]
            out[..., token, first] = a * math.cos(angle) - b * math.sin(angle)
            out[..., token, first + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def forward(w: Weights, x: torch.Tensor, time: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    c = functional.silu(embedded(w, time) + w["y_embedder.embedding_table.weight"][y])
    h = functional.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2).flatten(2).mT
    h = h + w["pos_embed"]
    six = [part[:, None] for part in linear(w, "blocks.0.adaLN_modulation.1", c).chunk(6, 1)]
    q, k, v = heads_of(w, "blocks.0", rms(h, w["blocks.0.norm1.weight"]) * (1 + six[1]) + six[0], HEADS)
    if "blocks.0.attn.q_norm.weight" in w:
        q, k = rms(q, w["blocks.0.attn.q_norm.weight"]), rms(k, w["blocks.0.attn.k_norm.weight"])
    h = h + six[2] * linear(w, "blocks.0.attn.proj", attended(rotated(q), rotated(k), v))
    inner = linear(w, "blocks.0.mlp.w12", rms(h, w["blocks.0.norm2.weight"]) * (1 + six[4]) + six[3])
    h = h + six[5] * linear(w, "blocks.0.mlp.w3", functional.silu(inner[..., :INNER]) * inner[..., INNER:])
    shift, scale = (part[:, None] for part in linear(w, "final_layer.adaLN_modulation.1", c).chunk(2, 1))
    h = rms(h, w["final_layer.norm_final.weight"]) * (1 + scale) + shift
    return unpatched(linear(w, "final_layer.linear", h), SHAPE, 2)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_it_is_lightning_dit(tmp_path: Path, qk_norm: bool) -> None:
    weights = state(qk_norm)
    torch.save({"ema": {f"module.{name}": weight for name, weight in weights.items()}}, tmp_path / "lightning.pt")
    model = LightningDiT(hidden=HIDDEN, depth=1, heads=HEADS, patch=2, qk_norm=qk_norm)
    given = {"shape": SHAPE, "num_classes": CLASSES, "predicts": "velocity", "time": "1 - t"}
    field = nag.load_network(tmp_path / "lightning.pt", model=model, **given)
    with seeded(1):
        x, t, y = torch.randn(4, *SHAPE), torch.tensor([0.0, 0.3, 0.7, 1.0]), torch.tensor([0, 3, 9, 10])
    torch.testing.assert_close(field(x, t, y), -forward(weights, x, 1 - t, y), rtol=1e-4, atol=1e-4)
    assert field.has_null_class


def test_what_it_cannot_be_built_for() -> None:
    model = LightningDiT(hidden=HIDDEN, depth=1, heads=4, patch=2)
    with pytest.raises(ValueError, match="heads of width 6 have no whole pairs for row and column"):
        model.fits(SHAPE)
    with pytest.raises(ValueError, match="its rotary positions are for square states, not 6 x 8"):
        model.fits((4, 6, 8))
