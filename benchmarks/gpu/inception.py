"""The Inception network of FID with random weights: what it costs does not depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nag.features.pytorch_fid import _Network
from nag.features.resizing import resize
from nag.numerics import arithmetic

STEM = {"Conv2d_1a_3x3": 32, "Conv2d_2a_3x3": 32, "Conv2d_2b_3x3": 64, "Conv2d_3b_1x1": 80, "Conv2d_4a_3x3": 192}
# Width and kernel of each convolution (Szegedy et al., arXiv 1512.00567); W is the width of the 7 x 7 branches.
A = {"branch1x1": 64, "branch5x5_1": 48, "branch5x5_2": (64, 5, 5), "branch3x3dbl_1": 64}
A |= {"branch3x3dbl_2": (96, 3, 3), "branch3x3dbl_3": (96, 3, 3), "branch_pool": 64}
B = {"branch3x3": (384, 3, 3), "branch3x3dbl_1": 64, "branch3x3dbl_2": (96, 3, 3), "branch3x3dbl_3": (96, 3, 3)}
W = 0
C: dict[str, Any] = {"branch1x1": 192, "branch7x7_1": W, "branch7x7_2": (W, 1, 7), "branch7x7_3": (192, 7, 1)}
C |= {"branch7x7dbl_1": W, "branch7x7dbl_2": (W, 7, 1), "branch7x7dbl_3": (W, 1, 7), "branch7x7dbl_4": (W, 7, 1)}
C |= {"branch7x7dbl_5": (192, 1, 7), "branch_pool": 192}
D = {"branch3x3_1": 192, "branch3x3_2": (320, 3, 3), "branch7x7x3_1": 192, "branch7x7x3_2": (192, 1, 7)}
D |= {"branch7x7x3_3": (192, 7, 1), "branch7x7x3_4": (192, 3, 3)}
E = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3_2a": (384, 1, 3), "branch3x3_2b": (384, 3, 1)}
E |= {"branch3x3dbl_1": 448, "branch3x3dbl_2": (384, 3, 3), "branch3x3dbl_3a": (384, 1, 3)}
E |= {"branch3x3dbl_3b": (384, 3, 1), "branch_pool": 192}
BLOCKS = {"Mixed_5b": A | {"branch_pool": 32}, "Mixed_5c": A, "Mixed_5d": A, "Mixed_6a": B}
BLOCKS |= {"Mixed_6b": C, "Mixed_6c": C, "Mixed_6d": C, "Mixed_6e": C, "Mixed_7a": D, "Mixed_7b": E, "Mixed_7c": E}
SEVENS = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}


class RandomInception(_Network):
    """narrow: divides every width, for a quick trial."""

    def __init__(self, device: str, narrow: int = 1) -> None:
        super().__init__({})
        self.device, self.narrow = device, narrow
        self.generator = torch.Generator().manual_seed(0)

    def convolution(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """As the real one, with weights that are made when they are first asked for."""
        if name not in self.weights:
            out, height, width = shape(name)
            size = max(1, out // self.narrow), x.shape[1], height, width
            weight = torch.randn(size, generator=self.generator) * (2 / (size[1] * height * width)) ** 0.5
            self.weights[name] = weight.to(self.device), torch.zeros(size[0], device=self.device)
        return super().convolution(name, x)


def shape(name: str) -> tuple[int, int, int]:
    """Width and kernel of a convolution."""
    block, _, branch = name.partition(".")
    if not branch:
        side = int(name[-1])
        return STEM[name], side, side
    given = BLOCKS[block][branch]
    out, height, width = given if isinstance(given, tuple) else (given, 1, 1)
    return out or SEVENS[block], height, width


def inception(device: str, narrow: int = 1) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 images (N, 3, H, W) -> features (N, 2048), or fewer if it is narrow."""
    network = RandomInception(device, narrow)

    def features(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), arithmetic(torch.device(device).type):
            x = resize(images.to(device), 299, "bicubic").contiguous()
            return network(x.sub_(128).div_(128))[0]

    return features
