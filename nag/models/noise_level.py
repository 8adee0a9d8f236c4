"""The noise-level estimator g_phi(t | x), which shows the noise shift (arXiv 2510.12497)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from nag.models.description import Backbone
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class NoiseLevel(Backbone):
    """The generators' transformer without noise and class inputs. It gives a posterior over the noise level, in `bins`
    equal parts of [0, 1].
    """

    bins: Annotated[Int, pydantic.Field(ge=2, le=10_000)] = 100

    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = False

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x (N, C, H, W)) -> logits (N, bins)`; num_classes, null_noise are not
        used.
        """
        from nag.models.transformer import level_network

        return level_network(self, shape, self.bins, seed)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Cross entropy of the posterior and the bin of the level."""
        from nag.losses import level_loss

        return level_loss(interpolant, self.bins)
