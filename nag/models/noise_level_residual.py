"""The small network r(x, t) of noise level correction (Abuduweili et al., arXiv 2412.05488)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nag.models.description import Backbone
from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class NoiseLevelResidual(Backbone):
    """The generators' transformer with a level and without a class. It says by what share the noise in a state differs
    from that of the level: sigma_t (1 + r(x, t)) is close to the distance to the data over sqrt(d), d numbers a state.

    It needs a training with `level_error`. In the paper it is a head on the features of the frozen denoiser's encoder,
    about a tenth of its size; here it is a network of its own, so that it needs no other network, and can be as small.
    """

    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = False
    estimates: ClassVar[str] = "residual"

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x (N, C, H, W), t (N,)) -> r (N, 1)`, 0 before training; num_classes,
        null_noise are not used.
        """
        from nag.models.transformer import level_network

        return level_network(self, shape, 1, seed, timed=True)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Squared error of 1 + r as the distance to the data over sigma_t sqrt(d)."""
        from nag.losses import residual_loss

        return residual_loss(interpolant)
