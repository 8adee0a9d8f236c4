"""Interpolants x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], 0 is data and 1 is noise; and what a network may predict.

Notation of SiT (Ma et al., arXiv 2401.08740, section 2) with its time reversed; d is the derivative by t.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from nag.registry import method

if TYPE_CHECKING:
    import torch

Prediction = Literal["velocity", "eps", "x0", "score"]
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "eps", "x0", "score")

Level = TypeVar("Level", float, "torch.Tensor")
LEVELS = 1000  # trained betas of DDPM and DiT; level j of theirs, 0 to 999, is t = (j + 1) / 1000 here
RATIOS = 8192  # tabled levels of `at_ratio`
ROUNDING = 2e-4  # of a level: t in float32 is at one to within 6e-5 of the distance between two


class Interpolant(Protocol):
    """Each function takes a number or a tensor of levels and returns the same type."""

    def alpha(self, t: Level) -> Level: ...
    def sigma(self, t: Level) -> Level: ...
    def dalpha(self, t: Level) -> Level: ...
    def dsigma(self, t: Level) -> Level: ...
    def __hash__(self) -> int: ...


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


@method
class GVP:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): SiT's "GVP". alpha is written as a sine, so that it ends at 0."""

    VERSION: ClassVar[int] = 1

    def alpha(self, t: Level) -> Level:
        return _functions(t).sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Level) -> Level:
        return _functions(t).sin(math.pi / 2 * t)

    def dalpha(self, t: Level) -> Level:
        return -math.pi / 2 * self.sigma(t)

    def dsigma(self, t: Level) -> Level:
        return math.pi / 2 * self.alpha(t)


@method
class VP:
    """The linear betas of DDPM and DiT, 1e-4 to 0.02 over 1,000 levels; alpha^2 = alpha-bar, alpha^2 + sigma^2 = 1.

    Level j is t = (j + 1) / 1000; between levels alpha-bar is log-linear, and it is 1 at t = 0, where dsigma is
    infinite. At a level the derivatives are the mean of both sides: with those of one side a solver would follow betas
    that are half a level away. Not the "VP" of the official SiT, which has continuous betas from 0.1 to 20.
    """

    VERSION: ClassVar[int] = 1

    def alpha(self, t: Level) -> Level:
        return _functions(t).exp(_log_alpha_bar(t)[0] / 2)

    def sigma(self, t: Level) -> Level:
        f = _functions(t)
        return f.sqrt(0.0 - f.expm1(_log_alpha_bar(t)[0]))

    def dalpha(self, t: Level) -> Level:
        log, slope = _log_alpha_bar(t)
        return slope / 2 * _functions(t).exp(log / 2)

    def dsigma(self, t: Level) -> Level:
        log, slope = _log_alpha_bar(t)
        growth, sigma = -slope / 2 * _functions(t).exp(log), self.sigma(t)
        if isinstance(sigma, float) and sigma == 0:
            return math.inf
        return growth / sigma


@functools.cache
def _betas() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """log alpha-bar at t = 0, 1/1000, ..., 1, and how much it falls from each to the next: log(1 - beta_j)."""
    falls = tuple(math.log1p(-(1e-4 + (0.02 - 1e-4) * j / (LEVELS - 1))) for j in range(LEVELS))
    return tuple(itertools.accumulate(falls, initial=0.0)), falls


@functools.cache
def _betas_like(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    logs, falls = (torch.tensor(values, dtype=dtype, device=device) for values in _betas())
    return logs, falls


def _log_alpha_bar(t: Level) -> tuple[Level, Level]:
    """log alpha-bar(t), and its derivative."""
    if isinstance(t, int | float):
        logs, falls = _betas()
        place = LEVELS * t
        below = min(max(math.ceil(place - ROUNDING) - 1, 0), LEVELS - 1)
        above = min(max(math.floor(place + ROUNDING), 0), LEVELS - 1)
        return logs[below] + (place - below) * falls[below], LEVELS * (falls[below] + falls[above]) / 2
    log_table, fall_table = _betas_like(t.dtype, t.device)
    places = LEVELS * t
    under = (places - ROUNDING).ceil().sub(1).clamp(0, LEVELS - 1).long()
    over = (places + ROUNDING).floor().clamp(0, LEVELS - 1).long()
    log = log_table[under] + (places - under) * fall_table[under]
    return log, LEVELS * (fall_table[under] + fall_table[over]) / 2


def at_ratio(interpolant: Interpolant, ratio: torch.Tensor) -> torch.Tensor:
    """The levels at which sigma / alpha is `ratio` (N,), which is above 0; 1 where no level has so much noise.

    Linear in log(sigma / alpha) between tabled levels: on the linear path exact to 2e-9 / (t (1 - t)).
    """
    import torch

    levels, logs = _ratios(interpolant, ratio.device)
    wanted = ratio.double().log()
    above = torch.searchsorted(logs, wanted).clamp(1, len(logs) - 1)
    low, high = logs[above - 1], logs[above]
    share = ((wanted - low) / (high - low)).clamp(0, 1)
    return (levels[above - 1] + share * (levels[above] - levels[above - 1])).to(ratio.dtype)


@functools.lru_cache(maxsize=16)
def _ratios(interpolant: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels, and log(sigma / alpha) at them, which rises."""
    import torch

    levels = torch.arange(1, RATIOS + 1, dtype=torch.float64) / RATIOS
    levels[-1] = 1 - 1e-9  # at 1 alpha may be 0
    logs = (interpolant.sigma(levels) / interpolant.alpha(levels)).log()
    return levels.to(device), logs.to(device)


def _functions(of: float | torch.Tensor) -> Any:
    """sin, exp, expm1 and sqrt for a number, or for a tensor."""
    if isinstance(of, int | float):
        return math
    import torch

    return torch


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(from_x0 x_0 + from_x x_t, variance), s < t; `forward` is the variance of x_t given x_s."""

    from_x0: Any
    from_x: Any
    variance: Any
    forward: Any


def posterior(interpolant: Interpolant, t: Level, s: Level) -> Posterior:
    """DDPM (arXiv 2006.11239), equations 6 and 7, for any alpha and sigma; s < t, sigma(t) > 0, alpha(s) > 0."""
    alpha_s, var_s, var_t = interpolant.alpha(s), interpolant.sigma(s) ** 2, interpolant.sigma(t) ** 2
    ratio = interpolant.alpha(t) / alpha_s
    forward = var_t - ratio**2 * var_s
    return Posterior(alpha_s * forward / var_t, ratio * var_s / var_t, var_s * forward / var_t, forward)


def target(
    predicts: str, x0: torch.Tensor, eps: torch.Tensor, t: float | torch.Tensor, interpolant: Interpolant
) -> torch.Tensor:
    """The training target of a network that `predicts` this, for x_t of x0 and eps (N, C, H, W) at t (N,)."""
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
    """Convert a prediction of kind `source` at the state x (N, C, H, W) to kind `target`.

    t: one level, or (N,). From eps or score to x0 or velocity needs alpha(t) > 0; from x0, and to a score, needs
    sigma(t) > 0. If this fails, one level raises a ValueError; in a tensor of levels such samples are not finite.
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
    level = known_level(t)
    if level is not None:
        return _at_level(interpolant, level, x.ndim, t.dtype, t.device)
    return _at(interpolant, t.reshape(-1, *[1] * (x.ndim - 1)))


def known_level(t: torch.Tensor) -> float | None:
    """The level of all samples where `nag.field.everywhere` made t; else None. Nothing waits for a GPU."""
    return getattr(t, "level", None)


@functools.lru_cache(maxsize=256)
def _at_level(
    interpolant: Interpolant, level: float, ndim: int, dtype: torch.dtype, device: torch.device
) -> _Coefficients:
    """Of one level, to broadcast over a batch: the batches of a run meet the same levels again."""
    import torch

    with torch.inference_mode(False):
        return _at(interpolant, torch.full([1] * ndim, level, dtype=dtype, device=device))


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
