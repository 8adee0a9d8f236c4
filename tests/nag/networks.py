"""A small transformer with random weights, also where training starts at zero."""

from __future__ import annotations

import torch

from nag.field import NetworkField
from nag.interpolants import Linear
from nag.models.sit import SiT

SHAPE, CLASSES = (1, 8, 8), 10


def network(depth: int = 3, seed: int = 0) -> NetworkField:
    """A SiT of width 32 on states (1, 8, 8) of 10 classes, patches of 2: a grid of 4 x 4 tokens."""
    module = SiT(hidden=32, depth=depth, heads=4, patch=2).module(SHAPE, CLASSES, null_noise=True, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return NetworkField(module.eval(), Linear(), "velocity", SHAPE, CLASSES, True, True)
