"""Forward passes of published transformers, written out with functions of torch, to hold modules against."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def embedded(w: Weights, time: Tensor) -> Tensor:
    """128 frequencies from 1 down to nearly 1 / 10000, cosines first, and two layers (N, D)."""
    angles = time[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    hidden = linear(w, "t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))
    return linear(w, "t_embedder.mlp.2", F.silu(hidden))


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of (N, heads, T, d), heads joined."""
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def heads_of(w: Weights, block: str, x: Tensor, heads: int) -> list[Tensor]:
    """q, k, v, each (N, heads, T, d)."""
    return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in linear(w, f"{block}.attn.qkv", x).chunk(3, 2)]


def block_of(w: Weights, block: str, h: Tensor, c: Tensor, heads: int) -> Tensor:
    """DiT's block with adaLN-zero."""
    six = [part[:, None] for part in linear(w, f"{block}.adaLN_modulation.1", F.silu(c)).chunk(6, 1)]
    x = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + six[1]) + six[0]
    h = h + six[2] * linear(w, f"{block}.attn.proj", attended(*heads_of(w, block, x, heads)))
    x = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + six[4]) + six[3]
    return h + six[5] * linear(w, f"{block}.mlp.fc2", F.gelu(linear(w, f"{block}.mlp.fc1", x), approximate="tanh"))


def unpatched(h: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """(N, T, p p C) -> (N, C, H, W), pixel by pixel."""
    channels, height, width = shape
    out = torch.empty(len(h), channels, height, width)
    for row in range(height):
        for column in range(width):
            token = (row // patch) * (width // patch) + column // patch
            place = ((row % patch) * patch + column % patch) * channels
            out[:, :, row, column] = h[:, token, place : place + channels]
    return out
