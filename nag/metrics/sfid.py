"""FID of spatial features (Nash et al., ICML 2021): what ADM's evaluator reports as sFID."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Scores, Shown, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class SFID(Metric):
    """The Fréchet distance of an inner layer before pooling, which depends on where things are in the image. Interval,
    extrapolation and influence are as in FID.
    """

    VERSION: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"spatial"})
    names: ClassVar[tuple[str, ...]] = ("sfid",)
    lower_is_better: ClassVar[dict[str, bool]] = {"sfid": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True
    shown: ClassVar[dict[str, Shown]] = {"sfid": Shown(label="sFID", format="number", at_least=0.0)}

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """spatial (N, d) of the samples; spatial (N_r, d), or mean_spatial and cov_spatial, of the reference.

        Raises ValueError as FID does.
        """
        from nag.metrics.fid import frechet_score

        x = rows(samples, "spatial", "sample spatial features", self.least)
        score, influence = frechet_score(x, reference, "spatial")
        return Scores(values={"sfid": score}, arrays={"influence": influence})
