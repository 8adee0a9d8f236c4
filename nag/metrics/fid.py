"""Fréchet distance of features, with its interval, its extrapolation in N and each sample's influence on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics import Score, Scores, feature_pair
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class FID:
    """`value` is D(N), as papers report it; `low`, `high` are its 95 % influence interval for this reference.

    `extrapolated` is 2 D(N) - mean of D on [0, N/2) and [N/2, N): D(N) is biased upward by about c / N, where c differs
    between cells, and this removes it. So compare extrapolated values. Samples must stand in no order.

    The interval needs N, the extrapolation N/2, above *the dimension*: the rank of the reference's covariance. Only on
    that support does D bend with S (a root of F^T S F); off it, as in pixels that never change, D is linear in S and
    has no bias. With fewer samples they are None, with the reason.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("fid",)
    lower_is_better: ClassVar[dict[str, bool]] = {"fid": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the reference; arrays: influence (N,) float32.

        Raises ValueError below two samples, for values that are not finite and where the dimensions differ.
        """
        from nag.intervals import influence_interval
        from nag.metrics.frechet import Reference
        from nag.metrics.moments import moments

        x, r = feature_pair(samples, reference, self.least)
        known = moments(r)
        target = Reference(known.mean, known.cov)
        value, IF = target.influence(x)

        n, half, dim = len(x), len(x) // 2, target.rank
        low = high = extrapolated = reason = None
        if n > dim:
            low, high = influence_interval(value, IF)
        if half > dim:
            parts = [moments(part) for part in (x[:half], x[half:])]
            extrapolated = 2 * value - sum(target.distance(part.mean, part.cov) for part in parts) / 2
        else:
            what = "extrapolated value" if n > dim else "interval and no extrapolated value"
            size = f"N/2 = {half}" if n > dim else f"N = {n}"
            reason = f"no {what}: {size} is not above the reference's dimension {dim}"
        score = Score(value=value, low=low, high=high, extrapolated=extrapolated, reason=reason)
        return Scores(values={"fid": score}, arrays={"influence": IF.astype("float32")})
