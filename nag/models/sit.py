"""SiT (Ma et al., arXiv 2401.08740): a transformer that predicts the velocity."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import pydantic

from nag.models.checks import patches_fit, widths_fit
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class SiT:
    """Its module has the official names and shapes, so official weights load; SiT-XL/2 is SiT(**SIZES["XL/2"]), of
    `nag.models.sizes`.

    hidden: width, a multiple of 4 and of `heads`. patch: side in pixels. mlp_ratio: inner width of an MLP / hidden.
    learned_variance: as official checkpoints have it, the final layer has 2C channels, of which the first C are used.
    """

    hidden: Annotated[Int, pydantic.Field(ge=4)]
    depth: Annotated[Int, pydantic.Field(ge=1)]
    heads: Annotated[Int, pydantic.Field(ge=1)]
    patch: Annotated[Int, pydantic.Field(ge=1)]
    mlp_ratio: Annotated[float, pydantic.Field(gt=0)] = 4.0
    learned_variance: bool = False

    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = True

    @pydantic.model_validator(mode="after")
    def _widths_fit(self) -> Self:
        widths_fit(self.hidden, self.heads, self.mlp_ratio)
        return self

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError if the network cannot be built for states of this shape (C, H, W)."""
        patches_fit(self.patch, shape)

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x, t, y) -> velocity` in our convention, its weights drawn from `seed`.

        shape: (C, H, W) of a state. null_noise: with a learned embedding for t = -1. The global generator is not
        touched. Under `torch.device("meta")` it stays there, without weights. ValueError if patches do not tile H, W.
        """
        from nag.models.transformer import generator

        output = functools.partial(our_velocity, channels=shape[0])
        return generator(self, shape, num_classes, null_noise, seed, time=official_time, output=output)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Mean squared error of the prediction."""
        from nag.losses import prediction_loss

        return prediction_loss(interpolant, predicts)

    def smoke(self) -> SiT:
        """A network as small as can be with the same patches: to see that everything connects."""
        return SiT(hidden=8, depth=1, heads=2, patch=self.patch, learned_variance=self.learned_variance)


def official_time(t: torch.Tensor) -> torch.Tensor:
    """SiT's time is 0 for noise and 1 for data."""
    return 1 - t


def our_velocity(out: torch.Tensor, channels: int) -> torch.Tensor:
    """SiT predicts x0 - eps, the derivative by its own time; with a learned variance it discards the second half."""
    return -out[:, :channels]
