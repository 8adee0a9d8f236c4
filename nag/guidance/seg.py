"""Smoothed energy guidance (SEG, Hong, arXiv 2408.00760): away from attention with blurred queries."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import pydantic

from nag.field import Perturbation
from nag.guidance.scaled import Perturbed
from nag.registry import method

INFINITE = 10_000.0


@method
class SEG(Perturbed):
    """D + s (D - D'), the queries of the blocks `layers` of D' blurred over the grid of tokens; s = `scale`, 0 is off.

    scale: 0 to 1000; 3 in the paper. layers: blocks, counted from 0. sigma: standard deviation of the Gaussian, in
    tokens, above 0; from 10,000 on it is infinite and the queries are replaced by their mean, as in the paper's final
    setting. interval, schedule: the levels t at which it acts, a factor of s.
    """

    sigma: Annotated[float, pydantic.Field(gt=0)] = INFINITE

    VERSION: ClassVar[int] = 1

    def perturbation(self) -> Perturbation:
        return Perturbation("blur", self.layers, math.inf if self.sigma >= INFINITE else self.sigma)
