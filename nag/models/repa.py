"""SiT as REPA trains it (Yu et al., arXiv 2410.06940): the same network, told our own t, that predicts our velocity."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

from nag.models.description import Generator
from nag.models.sit import SiT
from nag.registry import method

if TYPE_CHECKING:
    import torch


@method
class REPA(Generator):
    """The module has the names and shapes of REPA's code without its projectors, which only its training uses.

    The official SiT is told 1 - t and predicts x0 - eps; REPA's code is told t and predicts eps - x0.
    learned_variance: as in SiT, the first C of 2C channels are used.
    """

    VERSION: ClassVar[int] = 1

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x, t, y) -> velocity`; all else as in SiT."""
        from nag.models.transformer import generator

        output = functools.partial(first_channels, channels=shape[0])
        return generator(self, shape, num_classes, null_noise, seed, time=as_told, output=output)

    loss = SiT.loss


def as_told(t: torch.Tensor) -> torch.Tensor:
    return t


def first_channels(out: torch.Tensor, channels: int) -> torch.Tensor:
    return out[:, :channels]
