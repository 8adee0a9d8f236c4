"""Preconditioning: what surrounds a raw network F to make a prediction (Karras et al., arXiv 2206.00364, table 1).

The paper's state is y + sigma n, with noise without bound. Ours is x_t = alpha x0 + sigma eps, t in [0, 1]: the same
state times alpha, at the paper's level sigma(t) / alpha(t). So such a network is a field on any of our paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self

import pydantic

from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.interpolants import Interpolant, Prediction

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # the levels on which EDM trains


class Precondition(Protocol):
    """t: (N,), or (N, 1, 1, 1) beside states. The factors are finite for every t in [0, 1]."""

    times: ClassVar[tuple[str, ...]]  # the conventions of time that go with it
    predicts: ClassVar[Prediction | None]  # what the result predicts; None: what the network does

    def scaled(self, x: torch.Tensor, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        """The network's input for the state x."""
        ...

    def time(self, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor | None:
        """What it is told of the level; None: what its convention of time says."""
        ...

    def prediction(
        self, out: torch.Tensor, x: torch.Tensor, t: torch.Tensor, interpolant: Interpolant
    ) -> torch.Tensor: ...


Level = Annotated[float, pydantic.Field(gt=0)]


@method
class EDM:
    """A raw network F of EDM: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with c_noise = ln(sigma) / 4.

    sigma_data: standard deviation of the data. sigma_min, sigma_max: levels beyond them are told as these.

    The result predicts our velocity, written so that nothing is divided by sigma(t) or alpha(t).
    """

    sigma_data: Level = 0.5
    sigma_min: Level = SIGMA_MIN
    sigma_max: Level = SIGMA_MAX

    VERSION: ClassVar[int] = 1
    times: ClassVar[tuple[str, ...]] = ("t",)
    predicts: ClassVar[Prediction | None] = "velocity"

    @pydantic.model_validator(mode="after")
    def _min_is_below_max(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min ({self.sigma_min:g}) must be below sigma_max ({self.sigma_max:g})")
        return self

    def _deviation(self, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        """m, the standard deviation of x_t: m^2 = sigma^2 + sigma_data^2 alpha^2."""
        return (interpolant.sigma(t) ** 2 + self.sigma_data**2 * interpolant.alpha(t) ** 2).sqrt()

    def scaled(self, x: torch.Tensor, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        return x / self._deviation(t, interpolant)

    def time(self, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        return ratio(interpolant, t).clamp(self.sigma_min, self.sigma_max).log() / 4

    # v = dalpha D + dsigma (x - alpha D) / sigma. With D = sigma_data^2 alpha x / m^2 + sigma sigma_data F / m it is
    # (sigma dsigma + sigma_data^2 alpha dalpha) x / m^2 - (alpha dsigma - dalpha sigma) sigma_data F / m.
    def prediction(self, out: torch.Tensor, x: torch.Tensor, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        alpha, sigma, m = interpolant.alpha(t), interpolant.sigma(t), self._deviation(t, interpolant)
        dalpha, dsigma = interpolant.dalpha(t), interpolant.dsigma(t)
        of_x = (sigma * dsigma + self.sigma_data**2 * alpha * dalpha) / m**2
        return of_x * x - (alpha * dsigma - dalpha * sigma) * self.sigma_data / m * out


@method
class VE:
    """The network wants the state of the variance-exploding path: x_t / alpha = x0 + (sigma / alpha) eps.

    Such is EDM's denoiser with its preconditioning inside: `predicts: x0, time: sigma`. sigma_max: where sigma / alpha
    is above it, the state is scaled to that level.
    """

    sigma_max: Level = SIGMA_MAX

    VERSION: ClassVar[int] = 1
    times: ClassVar[tuple[str, ...]] = ("sigma", "log-sigma")
    predicts: ClassVar[Prediction | None] = None

    def scaled(self, x: torch.Tensor, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        level = self._level(t, interpolant)
        return x * ((1 + level**2) / (interpolant.alpha(t) ** 2 + interpolant.sigma(t) ** 2)).sqrt()

    def _level(self, t: torch.Tensor, interpolant: Interpolant) -> torch.Tensor:
        return ratio(interpolant, t).clamp(max=self.sigma_max)

    def time(self, t: torch.Tensor, interpolant: Interpolant) -> None:
        return None

    def prediction(self, out: torch.Tensor, x: torch.Tensor, t: torch.Tensor, interpolant: Any) -> torch.Tensor:
        return out


def ratio(interpolant: Interpolant, t: torch.Tensor) -> torch.Tensor:
    """The level of EDM, sigma(t) / alpha(t); infinite where alpha is 0."""
    return interpolant.sigma(t) / interpolant.alpha(t)


def told_sigma(interpolant: Interpolant, t: torch.Tensor) -> torch.Tensor:
    """`ratio` between SIGMA_MIN and the path's own end; SIGMA_MAX where that is infinite."""
    alpha = interpolant.alpha(1.0)
    return ratio(interpolant, t).clamp(SIGMA_MIN, interpolant.sigma(1.0) / alpha if alpha > 0 else SIGMA_MAX)
