"""Checkpoints as the code of REPA saves them, against a direct computation of its forward pass."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import nag
from nag.interpolants import GVP
from nag.models.sit import SiT
from nag.models.transformer import positions
from nag.seeding import seeded
from tests.nag.published import block_of, embedded, unpatched

SHAPE, CLASSES, HIDDEN, HEADS = (4, 8, 8), 10, 16, 2


def state() -> dict[str, torch.Tensor]:
    weights = SiT(hidden=HIDDEN, depth=2, heads=HEADS, patch=2).module(SHAPE, CLASSES, null_noise=False).state_dict()
    with seeded(0):
        random = {name: 0.1 * torch.randn_like(weight) for name, weight in weights.items()}
        projectors = {f"projectors.0.{place}.weight": torch.randn(8, 16) for place in (0, 2, 4)}
    return random | projectors | {"pos_embed": positions(4, 4, HIDDEN)}


def saved(path: Path, **arguments: Any) -> Path:
    """A training file of REPA: model, ema, opt, args."""
    args = argparse.Namespace(
        **{"model": "SiT-XL/2", "path_type": "linear", "prediction": "v", "proj_coeff": 0.5} | arguments
    )
    torch.save({"model": state(), "ema": state(), "opt": {}, "args": args, "steps": 40_000}, path)
    return path


def forward(w: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The network of the paper's code: it is told t, 0 at data and 1 at noise, and predicts eps - x0."""
    c = embedded(w, t) + w["y_embedder.embedding_table.weight"][y]
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2).flatten(2).mT + w["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        h = block_of(w, block, h, c, HEADS)
    shift, scale = F.linear(F.silu(c), *(w[f"final_layer.adaLN_modulation.1.{k}"] for k in ("weight", "bias"))).chunk(
        2, 1
    )
    h = F.layer_norm(h, (HIDDEN,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    return unpatched(F.linear(h, w["final_layer.linear.weight"], w["final_layer.linear.bias"]), SHAPE, 2)


@pytest.mark.parametrize("family", [None, "repa"])
def test_it_is_repas_network(tmp_path: Path, family: str | None) -> None:
    field = nag.load_network(saved(tmp_path / "0040000.pt"), family, heads=HEADS)
    with seeded(1):
        x, t, y = torch.randn(4, *SHAPE), torch.tensor([0.0, 0.3, 0.7, 1.0]), torch.tensor([0, 3, 9, 10])
    torch.testing.assert_close(field(x, t, y), forward(state(), x, t, y), rtol=1e-4, atol=1e-4)
    assert (field.predicts, field.num_classes, field.has_null_class) == ("velocity", CLASSES, True)


def test_its_cosine_path(tmp_path: Path) -> None:
    assert nag.load_network(saved(tmp_path / "net.pt", path_type="cosine"), heads=HEADS).interpolant == GVP()


def test_it_is_no_official_sit(tmp_path: Path) -> None:
    """The names and shapes are the same, the time is not; so the projectors, or the arguments, must decide."""
    with pytest.raises(ValueError, match=r"net\.pt: it was trained with REPA, whose code is told t and not 1 - t: say"):
        nag.load_network(saved(tmp_path / "net.pt"), "sit", heads=HEADS)
    with pytest.raises(
        ValueError, match="predict x on the path linear; of REPA's, v on linear or cosine can be loaded"
    ):
        nag.load_network(saved(tmp_path / "net.pt", prediction="x"), heads=HEADS)
