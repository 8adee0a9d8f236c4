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
    """

    k: Annotated[Int, Field(ge=1, le=100)] = 3

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("precision", "recall")
    lower_is_better: ClassVar[dict[str, bool]] = {"precision": False, "recall": False}
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {"precision": Shown(heading="P"), "recall": Shown(heading="R")}
    plane: ClassVar[tuple[str, str]] = ("recall", "precision")

    @property
    def least(self) -> int:
        return self.k + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and (N_r, d). Raises ValueError for k points or fewer and for values that are not finite."""
        import torch

        from nag.metrics.neighbours import SLACK, radii, reference_radii, seen, squared_distances

        x, r = seen(*feature_pair(samples, reference, self.least, self.least))
        of_x, of_r = radii(x, self.k), reference_radii(r, self.k)
        x_inside, r_inside = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(r), dtype=torch.bool)
        for rows, columns, tile in squared_distances(x, r, SLACK):
            x_inside[rows] |= (tile <= of_r[columns]).any(1)
            r_inside[columns] |= (tile <= of_x[rows, None]).any(0)
        shares = {"precision": int(x_inside.sum()) / len(x), "recall": int(r_inside.sum()) / len(r)}
        return Scores(values={name: plain(share) for name, share in shares.items()}, arrays={})
