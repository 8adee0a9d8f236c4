"""FID at infinite N: what is left of it without its bias (Chong and Forsyth, CVPR 2020, have the idea)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics import Score, Scores, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class FIDInfinity:
    """2 D(N) - mean of D on the two halves: FID's `extrapolated`, as a number of its own with an interval.

    It removes a bias of c / N, as the line that Chong and Forsyth fit to D over 1/N does. They fit fifteen overlapping
    subsets, whose errors are correlated in no known way, so the fit's own error is no interval. The two halves are
    disjoint and together the whole: to first order each sample weighs 2/N - 1/N = 1/N, as in D(N), so the influence of
    FID is that of this number too, and its interval covers the limit (tests/nag/test_intervals.py).
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("fid_infinity",)
    lower_is_better: ClassVar[dict[str, bool]] = {"fid_infinity": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) or moments of the reference; arrays: influence (N,).

        No value, with the reason, where N/2 is not above the reference's dimension. Raises ValueError as FID does.
        """
        from nag.intervals import influence_interval
        from nag.metrics.fid import frechet_score

        x = rows(samples, "features", "sample features", self.least)
        known, influence = frechet_score(x, reference, "features")
        value, low, high, reason = known["extrapolated"], None, None, known["reason"]
        if value is not None:
            low, high = influence_interval(value, influence)
        score = Score(value=value, low=low, high=high, extrapolated=value, reason=reason)
        return Scores(values={"fid_infinity": score}, arrays={"influence": influence})
