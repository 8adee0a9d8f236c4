"""Weights that depend on the level: factors of a guidance's weight, by t or by the step that a sampler takes."""

from __future__ import annotations

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self

import pydantic
from pydantic.dataclasses import dataclass

from nag.interpolants import Interpolant


class Weighting(Protocol):
    """A frozen object: `weighting(t, to, interpolant)` is the factor in a call at level t of a step to level `to`.

    of_step: whether `to` matters; it is None where the step is not known.
    """

    of_step: ClassVar[bool]

    def __call__(self, t: float, to: float | None, interpolant: Interpolant) -> float: ...


@dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Schedule:
    """A factor f(t) whose mean over t in [0, 1] is 1; t = 0 is data, 1 is noise.

    linear: 2 (1 - t). cosine: 1 + cos(pi t). Both grow while noise is removed (Wang et al., arXiv 2404.13040).
    beta: the density of Beta(a, b) at t, with its peak at (a - 1) / (a + b - 2) (Malarz et al., arXiv 2502.10574).
    Where the factor is 0 a guidance is not evaluated.
    name: which factor; constant is 1. a, b: of beta only.
    """

    name: Literal["constant", "linear", "cosine", "beta"] = "constant"
    a: Annotated[float, pydantic.Field(ge=1, le=100, strict=True)] = 2.0
    b: Annotated[float, pydantic.Field(ge=1, le=100, strict=True)] = 2.0

    of_step: ClassVar[bool] = False

    @pydantic.model_validator(mode="after")
    def _shape_is_used(self) -> Self:
        if self.name != "beta" and (self.a, self.b) != (2.0, 2.0):
            raise ValueError(f"a and b belong to the schedule beta: leave them out of {self.name}")
        return self

    def __call__(self, t: float, to: float | None, interpolant: Interpolant) -> float:
        if self.name == "constant" or t < 0:  # t = -1, the null noise condition, is no level
            return 1.0
        if self.name == "linear":
            return max(0.0, 2 * (1 - t))
        if self.name == "cosine":
            return 1 + math.cos(math.pi * t)
        whole = math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        return math.exp(whole) * max(t, 0.0) ** (self.a - 1) * max(1 - t, 0.0) ** (self.b - 1)


CONSTANT = Schedule()


@plain_dataclass(frozen=True)
class Renoised:
    """The factor with which plain guidance takes CFG++'s step (arXiv 2406.08070, algorithm 2): scale(t, to) - 1.

    The step goes to x_0 of the guided eps, and adds noise again along the null prediction. In a step of one eps,
    x' = (alpha' / alpha) x + (sigma' - alpha' sigma / alpha) eps, that is the scale
    lambda alpha' sigma / (alpha' sigma - alpha sigma'), with alpha' and sigma' at the level `to`.
    """

    strength: float  # lambda

    of_step: ClassVar[bool] = True

    def __call__(self, t: float, to: float | None, interpolant: Interpolant) -> float:
        """Raises ValueError where the step is not known."""
        if to is None:
            raise ValueError("CFG++ needs to know the step that a sampler takes: use nag.sample")
        whole = interpolant.alpha(to) * interpolant.sigma(t)
        return self.strength * whole / (whole - interpolant.alpha(t) * interpolant.sigma(to)) - 1
