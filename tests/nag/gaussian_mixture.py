"""A field in closed form: data are a Gaussian mixture, class c is component c, the null class is the whole mixture."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from nag.interpolants import Linear, target


@dataclass
class GaussianMixture:
    """means (K, C, H, W), stds (K,), weights (K,), float64. Component k is N(means[k], stds[k]^2 I).

    At t = -1 it predicts as a network without a noise condition would that was trained on levels uniform in [0, 1]: its
    own kind of prediction, averaged over the posterior of the level.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    predicts: Any = "velocity"
    interpolant: Any = field(default_factory=Linear)
    has_null_noise: bool = True
    has_null_class: bool = True
    calls: int = 1
    evaluations: int = 0  # how often it was called, and with how many samples
    batches: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.means.shape[1:])  # type: ignore[return-value]

    @property
    def num_classes(self) -> int:
        return len(self.means)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        self.batches.append(len(x))
        assert t.shape == y.shape == (len(x),)
        null = t == -1
        if not null.any():
            return self._mean(x, t[:, None], y)
        out = torch.empty_like(x)
        levels = (torch.arange(400, dtype=x.dtype) + 0.5) / 400
        out[null] = self._mean(x[null], levels.expand(int(null.sum()), -1), y[null])
        out[~null] = self._mean(x[~null], t[~null][:, None], y[~null])
        return out

    def _mean(self, x: Tensor, levels: Tensor, y: Tensor) -> Tensor:
        """x (N, C, H, W), levels (N, L), y (N,): the mean over levels and components, given x."""
        log_p, away, total = self._joint(x, levels, y)
        a, s = (f(levels)[:, :, None, None] for f in (self.interpolant.alpha, self.interpolant.sigma))
        means, variances = self.means.flatten(1), (self.stds**2)[:, None]
        share = torch.softmax(log_p.flatten(1), 1).reshape(log_p.shape)[..., None]
        x0 = means + a * variances / total * away  # E[x0 | x, level, component]
        eps = s / total * away
        kind = target(self.predicts, x0.flatten(0, 1), eps.flatten(0, 1), levels.flatten(), self.interpolant)
        return (share * kind.reshape(x0.shape)).sum((1, 2)).reshape(x.shape)

    def _joint(self, x: Tensor, levels: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x, component | level) (N, L, K), x minus each mean (N, L, K, d), the variance there (N, L, K, 1)."""
        chosen = torch.cat([torch.eye(self.num_classes, dtype=x.dtype), self.weights[None]])[y]  # (N, K)
        a, s = (f(levels)[:, :, None, None] for f in (self.interpolant.alpha, self.interpolant.sigma))
        away = x.flatten(1)[:, None, None] - a * self.means.flatten(1)
        total = a**2 * (self.stds**2)[:, None] + s**2
        log_p = -0.5 * (away**2 / total + torch.log(2 * math.pi * total)).sum(-1) + torch.log(chosen)[:, None]
        return log_p, away, total

    def level(self, x: Tensor) -> Tensor:
        """The exact g(t | x): the posterior mean of the level (N,), levels uniform in [0, 1], the class not known."""
        levels = ((torch.arange(400, dtype=x.dtype) + 0.5) / 400).expand(len(x), -1)
        y = torch.full((len(x),), self.num_classes)
        return (torch.softmax(self._joint(x, levels, y)[0].logsumexp(-1), 1) * levels).sum(1)


def mixture(predicts: str = "velocity", interpolant: Any = None) -> GaussianMixture:
    """Three components in the plane, stored as (2, 1, 1); on the linear path, unless another is given."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]], dtype=torch.float64).reshape(3, 2, 1, 1)
    stds, weights = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.5, 0.4], [0.5, 0.2, 0.3]))
    return GaussianMixture(means, stds, weights, predicts, interpolant or Linear())


def exact_flow(field: GaussianMixture, x: Tensor, y: Tensor, start: float, end: float) -> Tensor:
    """The probability-flow ODE by a solver that is not ours, to 1e-11. All paths have one flow: with z = alpha + sigma,
    x / z is the state of the linear path at t = sigma / z, where nothing is singular.
    """
    path, linear = field.interpolant, dataclasses.replace(field, predicts="velocity", interpolant=Linear())

    def velocity(t: float, flat: Any) -> Any:
        state = torch.from_numpy(flat).reshape(x.shape)
        return linear(state, torch.full((len(x),), t, dtype=x.dtype), y).numpy().ravel()

    (z, t), (z_end, t_end) = ((a + s, s / (a + s)) for a, s in ((path.alpha(u), path.sigma(u)) for u in (start, end)))
    solution = solve_ivp(velocity, (t, t_end), (x / z).numpy().ravel(), "DOP853", rtol=1e-11, atol=1e-11)
    return z_end * torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


def assert_moments(x: Tensor, field: GaussianMixture, y: int) -> None:
    """Samples x (N, C, H, W) of class y have its mean and second moments within four and a half standard errors."""
    weights = field.weights if y == field.num_classes else torch.eye(field.num_classes, dtype=torch.float64)[y]
    means, flat = field.means.flatten(1), x.flatten(1).double()
    mean = (weights[:, None] * means).sum(0)
    spread = torch.einsum("k,ki,kj->ij", weights, means, means) + (weights * field.stds**2).sum() * torch.eye(len(mean))
    for found, expected in ((flat, mean), (flat[:, :, None] * flat[:, None], spread)):
        error = (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(x)))
        assert float(error.abs().max()) < 4.5, error
