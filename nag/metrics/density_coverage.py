"""Density and coverage (Naeem et al., ICML 2020, eq. 5 and 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics.metric import Metric, Scores, Shown, feature_pair, plain
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np


@method
class DensityCoverage(Metric):
    """density: mean number of the reference's balls that hold a sample, over k; coverage: share of these balls that
    hold any. If samples and reference are alike, density is 1 and coverage nearly 1; density may be above 1.

    Only reference images have balls, as in precision, so an outlier among the samples does not make a large ball.
    A ball is closed and reaches the k-th nearest other reference image. Compare at equal N, N_r and k only.
    k: a ball reaches the k-th nearest image.
    at_most: if given, equally many rows of both sets count, at most so many, drawn by a key.
    """

    k: Annotated[Int, Field(ge=1, le=100)] = 5
    at_most: Annotated[Int, Field(gt=100)] | None = None

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("density", "coverage")
    lower_is_better: ClassVar[dict[str, bool]] = {"density": False, "coverage": False}
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "density": Shown(heading="dens.", format="number", at_least=0.0),
        "coverage": Shown(heading="cover.", at_least=0.0, at_most=1.0),
    }

    @property
    def least(self) -> int:
        return 1 if self.at_most is None else self.k + 1

    @property
    def least_reference(self) -> int:
        return self.k + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and (N_r, d), N_r above k. Raises ValueError for fewer and for values that are not finite."""
        from nag.metrics.neighbours import alike, seen
        from nag.metrics.pairs import between

        sides = alike(*feature_pair(samples, reference, self.least, self.least_reference), self.at_most)
        found = between(*seen(*sides), self.k)
        holding, held = found.holding[self.k], found.held[self.k]
        values = {"density": int(holding.sum()) / (self.k * len(holding)), "coverage": int(held.sum()) / len(held)}
        return Scores(values={name: plain(value) for name, value in values.items()}, arrays={})
