"""Interpolants x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], 0 is data and 1 is noise; and what a network may predict.

Notation of SiT (Ma et al., arXiv 2401.08740, section 2) with its time reversed; d is the derivative by t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from nag.registry import method

if TYPE_CHECKING:
    import torch

Prediction = Literal["velocity", "eps", "x0", "score"]
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "eps", "x0", "score")

Level = TypeVar("Level", float, "torch.Tensor")


class Interpolant(Protocol):
    """Each takes a number or a tensor of levels and returns the like."""

    def alpha(self, t: Level) -> Level: ...
    def sigma(self, t: Level) -> Level: ...
    def dalpha(self, t: Level) -> Level: ...
    def dsigma(self, t: Level) -> Level: ...


@method
class Linear:
    """alpha = 1 - t, sigma = t: the path of rectified flow and of SiT's "Linear"."""

    VERSION: ClassVar[int] = 1

    def alpha(self, t: Level) -> Level:
        return 1 - t

    def sigma(self, t: Level) -> Level:
        return t

    def dalpha(self, t: Level) -> Level:
        return 0 * t - 1

    def dsigma(self, t: Level) -> Level:
        return 0 * t + 1


def target(
    predicts: str, x0: torch.Tensor, eps: torch.Tensor, t: float | torch.Tensor, interpolant: Interpolant
) -> torch.Tensor:
    """What a network that `predicts` this is trained towards, for x_t made of x0 and eps (N, C, H, W) at t (N,)."""
    c = _coefficients(interpolant, x0, t)
    match predicts:
        case "velocity":
            return c.dalpha * x0 + c.dsigma * eps
        case "eps":
            return eps
        case "x0":
            return x0
        case "score":
            return -eps / _divisor(c.sigma, "sigma(t)")
        case _:
            raise ValueError(f"unknown prediction {predicts!r}; known: {', '.join(PREDICTIONS)}")


def convert(
    prediction: torch.Tensor,
    source: Prediction,
    target: Prediction,
    x: torch.Tensor,
    t: float | torch.Tensor,
    interpolant: Interpolant,
) -> torch.Tensor:
    """What a prediction of kind `source` at the state x (N, C, H, W) says as kind `target`.

    t: one level, or (N,). From eps or score to x0 or velocity needs alpha(t) > 0; from x0, and to a score, needs
    sigma(t) > 0. One level where this fails is a ValueError; in a tensor of levels such samples come out not finite.
    """
    for kind in (source, target):
        if kind not in PREDICTIONS:
            raise ValueError(f"unknown prediction {kind!r}; known: {', '.join(PREDICTIONS)}")
    if source == target:
        return prediction
    c = _coefficients(interpolant, x, t)
    if target == "x0":
        return _x0(prediction, source, x, c)
    eps = _eps(prediction, source, x, c)
    if target == "eps":
        return eps
    if target == "score":  # s(x|t) = -E[eps | x_t] / sigma
        return -eps / _divisor(c.sigma, "sigma(t)")
    return c.dalpha * _x0(prediction, source, x, c) + c.dsigma * eps  # v = dalpha E[x0 | x_t] + dsigma E[eps | x_t]


class _Coefficients(NamedTuple):
    alpha: float | torch.Tensor
    sigma: float | torch.Tensor
    dalpha: float | torch.Tensor
    dsigma: float | torch.Tensor


def _coefficients(interpolant: Interpolant, x: torch.Tensor, t: float | torch.Tensor) -> _Coefficients:
    if isinstance(t, int | float):
        return _at(interpolant, float(t))
    return _at(interpolant, t.reshape(-1, *[1] * (x.ndim - 1)))


def _at(interpolant: Interpolant, t: Level) -> _Coefficients:
    return _Coefficients(interpolant.alpha(t), interpolant.sigma(t), interpolant.dalpha(t), interpolant.dsigma(t))


# x = alpha x0 + sigma eps and v = dalpha x0 + dsigma eps, solved for eps (SiT's score from velocity) and for x0.
def _eps(prediction: torch.Tensor, source: Prediction, x: torch.Tensor, c: _Coefficients) -> torch.Tensor:
    if source == "eps":
        return prediction
    if source == "score":
        return -c.sigma * prediction
    if source == "x0":
        return (x - c.alpha * prediction) / _divisor(c.sigma, "sigma(t)")
    return (c.alpha * prediction - c.dalpha * x) / (c.alpha * c.dsigma - c.dalpha * c.sigma)


def _x0(prediction: torch.Tensor, source: Prediction, x: torch.Tensor, c: _Coefficients) -> torch.Tensor:
    if source == "x0":
        return prediction
    if source == "velocity":
        return (c.dsigma * x - c.sigma * prediction) / (c.alpha * c.dsigma - c.dalpha * c.sigma)
    return (x - c.sigma * _eps(prediction, source, x, c)) / _divisor(c.alpha, "alpha(t)")


def _divisor(value: float | torch.Tensor, name: str) -> float | torch.Tensor:
    if isinstance(value, int | float) and value == 0:
        raise ValueError(f"this prediction cannot be converted where {name} = 0")
    return value
