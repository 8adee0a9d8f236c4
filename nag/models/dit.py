"""DiT (Peebles and Xie, arXiv 2212.09748): the transformer as a DDPM network, on the levels of trained betas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from nag.interpolants import LEVELS, VP, convert, posterior, target
from nag.models.description import Generator
from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.losses import Batch, Loss


@method
class DiT(Generator):
    """The module has the official names and shapes, so official weights load (they predict eps on the path `vp`).
    DiT-XL/2 is DiT(**SIZES["XL/2"], learned_variance=True), with SIZES of `nag.models.sizes`.

    learned_variance: the last C of its 2C channels place the variance of a DDPM step between its two bounds.
    """

    VERSION: ClassVar[int] = 1

    @property
    def predicts_variance(self) -> bool:
        return self.learned_variance

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x, t, y) -> prediction`, C or 2C channels, its weights drawn from `seed`.

        shape, null_noise, the global generator and `torch.device("meta")`: as in SiT.
        """
        from nag.models.transformer import generator

        return generator(self, shape, num_classes, null_noise, seed, time=official_level, output=as_it_is)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Mean squared error of the prediction, plus the variational bound if the variance is learned.

        Raises ValueError for a learned variance on a path without trained betas.
        """
        from nag.losses import prediction_loss

        if not self.learned_variance:
            return prediction_loss(interpolant, predicts)
        if not isinstance(interpolant, VP):
            raise ValueError("learned_variance belongs to the steps of trained betas: it needs interpolant vp")
        return hybrid_loss(interpolant, predicts)


def official_level(t: torch.Tensor) -> torch.Tensor:
    """DiT's level j, from 0 (little noise) to 999, is t = (j + 1) / 1000. It is not rounded before it is embedded."""
    return LEVELS * t - 1


def as_it_is(out: torch.Tensor) -> torch.Tensor:
    return out


def hybrid_loss(interpolant: VP, predicts: Any) -> Loss:
    """L_simple + L_vlb (Nichol and Dhariwal, arXiv 2102.09672, section 3.1) with the weight 1 of the official DiT.

    L_vlb is KL(q(x_s | x_t, x_0) || p(x_s | x_t)), in bits per dimension, for the step from t to s = t - 1/1000. It
    trains the variance only. At the first levels, t < 2/1000, it is 0: their q has no variance to learn.
    """

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        x, channels = batch.states(interpolant), batch.x0.shape[1]
        out = module(x, batch.told, batch.y)
        wanted = target(predicts, batch.x0, batch.eps, batch.t, interpolant)
        simple = (out[:, :channels] - wanted).square().mean()
        x0 = convert(out[:, :channels].detach(), predicts, "x0", x, batch.t, interpolant)

        t = batch.t.double().clamp(min=2 / LEVELS).view(-1, 1, 1, 1)
        q = posterior(interpolant, t, t - 1 / LEVELS)
        low, high = q.variance.log(), q.forward.log()
        log_variance = low + (out[:, channels:] + 1) / 2 * (high - low)
        missed = (q.from_x0 * (batch.x0 - x0)).square()
        kl = 0.5 * (log_variance - low + (low - log_variance).exp() + missed * (-log_variance).exp() - 1)
        bound = kl.mean(dim=(1, 2, 3)) * (batch.t >= 2 / LEVELS) / math.log(2)
        return simple + bound.mean().to(simple.dtype)

    return loss
