"""Networks that do not generate, as functions of states: the estimator g_phi(t | x) and the residual r(x, t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nag.numerics import arithmetic

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Estimator:
    """g_phi as a function: states (N, C, H, W) to the posterior mean of their level (N,) in (0, 1), without gradients.
    Always in plain float32.
    """

    module: torch.nn.Module
    interpolant: Any
    shape: tuple[int, int, int]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(x)[:, 0]

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Mean and mode of the posterior, (N, 2); the mode is the centre of the most likely part of [0, 1]."""
        import torch

        with torch.no_grad(), arithmetic(x.device.type):
            posterior = self.module(x).softmax(dim=1)
        bins = posterior.shape[1]
        centres = (torch.arange(bins, dtype=posterior.dtype, device=posterior.device) + 0.5) / bins
        return torch.stack([posterior @ centres, centres[posterior.argmax(dim=1)]], dim=1)

    def gradient(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """grad_x log g(t | x), (N, C, H, W), at levels t (N,) in [0, 1]. The log density is linear between the centres
        of the bins, and constant beyond the outer ones.
        """
        import torch

        with torch.inference_mode(False), torch.enable_grad(), arithmetic(x.device.type):
            x, t = x.detach().clone().requires_grad_(), t.detach().clone()
            log_density = self.module(x).log_softmax(dim=1)  # up to a constant
            place = (t * log_density.shape[1] - 0.5).clamp(0, log_density.shape[1] - 1)
            below = place.floor().long().clamp(max=log_density.shape[1] - 2)
            low, high = (log_density.gather(1, bins[:, None])[:, 0] for bins in (below, below + 1))
            share = place - below
            (gradient,) = torch.autograd.grad(((1 - share) * low + share * high).sum(), x)
        return gradient


@dataclass(frozen=True)
class Residual:
    """r as a function: states (N, C, H, W) at levels t (N,) to the share by which their noise differs from that of t,
    (N,), without gradients. Always in plain float32.
    """

    module: torch.nn.Module
    interpolant: Any
    shape: tuple[int, int, int]

    def share(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad(), arithmetic(x.device.type):
            return self.module(x, t)[:, 0]
