"""Training batches, and the losses of predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


def level_loss(interpolant: Any, bins: int) -> Loss:
    """Cross entropy of the posterior over `bins` equal parts of [0, 1] and the part in which t lies."""

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(module(batch.states(interpolant)), (batch.t * bins).long().clamp(0, bins - 1))

    return loss


def residual_loss(interpolant: Any) -> Loss:
    """Squared error of 1 + r(x_t, t) as |noise| / sqrt(d), the noise of the state, of d numbers, over sigma_t."""

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        noise = (batch.eps if batch.noise is None else batch.noise).flatten(1)
        distance = noise.norm(dim=1) / noise.shape[1] ** 0.5
        return (1 + module(batch.states(interpolant), batch.t)[:, 0] - distance).square().mean()

    return loss


class Batch(NamedTuple):
    x0: torch.Tensor  # (N, C, H, W)
    eps: torch.Tensor  # (N, C, H, W)
    t: torch.Tensor  # (N,) in (0, 1)
    told: torch.Tensor  # (N,) the t that the network gets; -1 where its noise condition is dropped
    y: torch.Tensor  # (N,) the class that it gets; num_classes where it is dropped
    noise: torch.Tensor | None = None  # (N, C, H, W) in place of eps in the states; None is eps

    def states(self, interpolant: Any) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps; with perturbed inputs the noise in it is not the eps of the target."""
        level, noise = self.t.view(-1, 1, 1, 1), self.eps if self.noise is None else self.noise
        return interpolant.alpha(level) * self.x0 + interpolant.sigma(level) * noise

    def rows(self, some: slice) -> Batch:
        return Batch(*(tensor[some] for tensor in self if tensor is not None))


Loss = Callable[["torch.nn.Module", Batch], "torch.Tensor"]  # the mean over the batch; it only calls the module


def prediction_loss(interpolant: Any, predicts: str) -> Loss:
    """Mean squared error of a generator's prediction at x_t."""
    from nag.interpolants import target

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        wanted = target(predicts, batch.x0, batch.eps, batch.t.view(-1, 1, 1, 1), interpolant)
        return (module(batch.states(interpolant), batch.told, batch.y) - wanted).square().mean()

    return loss
