"""Adaptive projected guidance (APG, Sadat et al., arXiv 2410.02416): CFG whose update is damped along D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.scaled import Scaled
from nag.guidance.terms import Call, Interval, Term, away_from
from nag.interpolants import convert
from nag.registry import method

if TYPE_CHECKING:
    import torch

NO_CAP = 0.0


@method
class APG(Scaled):
    """D_c + (w - 1) (orthogonal + eta parallel) for the x_0 predictions D_c, D_null; w = `scale`, 1 is off.

    The difference is averaged over steps, d <- (D_c - D_null) + b d, with b = `momentum`; scaled down to the norm
    r = `norm` over (C, H, W), 0 is no cap; and split along D_c. With eta 1, no cap and no momentum it is CFG. Where
    sigma = 0 it adds nothing.
    scale: 0 to 1000. eta: 0 to 1; the paper advises 0. norm: 0 to 10,000; it depends on the size of states, in the
    paper's Table 10 it is 2.5 for EDM2 and 15 for Stable Diffusion XL. momentum: above -1 and below 1; the paper has
    -0.75 to -0.25, -0.5 for Stable Diffusion XL, 0 is off. interval: the levels t at which it acts.
    """

    eta: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0
    norm: Annotated[float, pydantic.Field(ge=0, le=10_000)] = NO_CAP
    momentum: Annotated[float, pydantic.Field(gt=-1, lt=1)] = -0.5
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})
    reference: ClassVar[None] = None

    @property
    def remembers(self) -> bool:
        return self.momentum != 0

    def terms(self) -> tuple[Term, ...]:
        return away_from(self.scale - 1, null_class=True, interval=self.interval)

    def combine(self, predictions: tuple[torch.Tensor, ...], call: Call) -> torch.Tensor:
        """What is added to D (N, C, H, W)."""
        import torch

        x, t, path, predicts, memory = call
        conditional, null = (convert(each, predicts, "x0", x, t, path) for each in predictions)
        difference = conditional - null
        if self.remembers:
            if "difference" in memory:
                difference = difference + self.momentum * memory["difference"]
            memory["difference"] = difference
        if self.norm:
            length = _norm(difference)
            difference = difference * torch.where(length > self.norm, self.norm / length, torch.ones_like(length))
        parallel = _along(difference, conditional)
        update = (self.scale - 1) * (difference - parallel + self.eta * parallel)
        sigma = path.sigma(t).view(-1, 1, 1, 1)
        converted = convert(update, "x0", predicts, torch.zeros_like(x), t, path)
        return torch.where(sigma > 0, converted, torch.zeros_like(converted))


def _norm(x: torch.Tensor) -> torch.Tensor:
    """The L2 norm of each sample, (N, 1, 1, 1)."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _along(x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """The part of each x along its axis, in float64."""
    wide, unit = x.double(), axis.double()
    unit = unit / _norm(unit).clamp(min=1e-12)
    return ((wide * unit).sum(dim=(1, 2, 3), keepdim=True) * unit).to(x.dtype)
