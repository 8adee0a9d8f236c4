"""SiT (Ma et al., arXiv 2401.08740): a transformer that predicts the velocity."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from nag.models.description import Generator
from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class SiT(Generator):
    """The module has the official names and shapes, so official weights load. SiT-XL/2 is SiT(**SIZES["XL/2"]), with
    SIZES of `nag.models.sizes`.

    learned_variance: as in official checkpoints, the final layer has 2C channels, of which the first C are used.
    """

    VERSION: ClassVar[int] = 1

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x, t, y) -> velocity` in our convention, its weights drawn from `seed`.

        shape: (C, H, W) of a state. null_noise: with a learned embedding for t = -1. The global generator is not
        touched. Under `torch.device("meta")` the network stays there, without weights. Raises ValueError if patches do
        not tile H, W.
        """
        from nag.models.transformer import generator

        output = functools.partial(our_velocity, channels=shape[0])
        return generator(self, shape, num_classes, null_noise, seed, time=official_time, output=output)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Mean squared error of the prediction."""
        from nag.losses import prediction_loss

        return prediction_loss(interpolant, predicts)


def official_time(t: torch.Tensor) -> torch.Tensor:
    """SiT's time is 0 for noise and 1 for data."""
    return 1 - t


def our_velocity(out: torch.Tensor, channels: int) -> torch.Tensor:
    """SiT predicts x0 - eps, the derivative in its own time; with a learned variance, the second half is discarded."""
    return -out[:, :channels]
