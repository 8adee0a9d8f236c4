"""FID at infinite N: FID without its bias (after Chong and Forsyth, CVPR 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

    from nag.metrics.frechet import Reference

LEAST_RATIO = 10  # samples per dimension


@method
class FIDInfinity(Metric):
    """(8 D(N) - 6 D(N/2) + D(N/4)) / 3, with means over two random halves and four quarters: D's bias c / N + c' / N^2
    cancels. Below 10 samples per dimension (the rank of the reference's covariance) it has no value.

    The parts of each size are disjoint and together the whole, so to first order each sample weighs 1/N, as in D(N):
    this value has the influence of FID, which gives its interval. Chong and Forsyth fit a line in 1/N to fifteen
    overlapping subsets, whose errors are correlated in an unknown way, so the error of that fit gives no interval.

    At N/d = 10 and dimension 64 to 512, its nominal 95 % intervals cover the limit in about 0.89 to 0.96 of cases;
    those of the line alone, 2 D(N) - D(N/2), in 0.60 to 0.96. At N/d = 5, its own cover it in 0.41 to 0.91
    (`python -m benchmarks.coverage limit`).
    """

    VERSION: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("fid_infinity",)
    lower_is_better: ClassVar[dict[str, bool]] = {"fid_infinity": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True
    shown: ClassVar[dict[str, Shown]] = {"fid_infinity": Shown(label="FID at infinite N", format="number")}

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) or moments of the reference; arrays: influence (N,).

        Below 10 samples per dimension there is no value, but a reason. Raises ValueError as FID does.
        """
        from nag.intervals import influence_interval
        from nag.metrics.fid import frechet_score, gaussian, sources

        x = rows(samples, "features", "sample features", self.least)
        known, influence = frechet_score(x, reference, "features")
        target = gaussian(sources(x, reference, "features"))
        value = low = high = reason = None
        if len(x) >= LEAST_RATIO * target.rank:
            assert known["value"] is not None
            value = (8 * known["value"] + _parts(x, target)) / 3
            low, high = influence_interval(value, influence)
        else:
            reason = f"no value: N = {len(x)} is below {LEAST_RATIO} times the reference's dimension {target.rank}"
        score = Score(value=value, low=low, high=high, extrapolated=value, reason=reason)
        return Scores(values={"fid_infinity": score}, arrays={"influence": influence})


def _parts(x: np.ndarray, target: Reference) -> float:
    """D(N/4) - 6 D(N/2), from means over random parts of these sizes; each half is two of the quarters."""
    from nag.metrics.moments import Moments, moments
    from nag.noise import parts

    quarters = [moments(x[part]) for part in parts(len(x), 4)]
    halves = []
    for pair in (quarters[:2], quarters[2:]):
        halves.append(Moments(x.shape[1]))
        for quarter in pair:
            halves[-1].merge(quarter)
    of_quarters, of_halves = (
        sum(target.distance(part.mean, part.cov) for part in group) / len(group) for group in (quarters, halves)
    )
    return of_quarters - 6 * of_halves
