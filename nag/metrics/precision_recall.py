"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, eq. 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics.metric import Metric, Scores, Shown, feature_pair, plain
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np


@method
class PrecisionRecall(Metric):
    """precision: share of samples inside the reference's balls; recall: share of the reference inside the samples'.

    A point's ball reaches the k-th nearest other point of its own set and is closed: ties and duplicates (frequent in
    stored pixels) are inside. Both shares depend on N and k: compare at equal ones only.
    at_most: if given, equally many rows of both sets count, at most so many, drawn by a key.
    """

    k: Annotated[Int, Field(ge=1, le=100)] = 3
    at_most: Annotated[Int, Field(gt=100)] | None = None

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("precision", "recall")
    lower_is_better: ClassVar[dict[str, bool]] = {"precision": False, "recall": False}
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "precision": Shown(heading="P", at_least=0.0, at_most=1.0),
        "recall": Shown(heading="R", at_least=0.0, at_most=1.0),
    }
    plane: ClassVar[tuple[str, str]] = ("recall", "precision")

    @property
    def least(self) -> int:
        return self.k + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and (N_r, d). Raises ValueError for k points or fewer and for values that are not finite."""
        from nag.metrics.neighbours import alike, seen
        from nag.metrics.pairs import between

        sides = alike(*feature_pair(samples, reference, self.least, self.least), self.at_most)
        found = between(*seen(*sides), self.k, reach=True)
        assert found.reached is not None
        shares = {"precision": (found.holding[self.k] > 0), "recall": found.reached[self.k]}
        return Scores(values={name: plain(int(each.sum()) / len(each)) for name, each in shares.items()}, arrays={})
