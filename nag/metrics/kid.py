"""Kernel distance: the unbiased squared MMD with a cubic kernel (Bińkowski et al., ICLR 2018, eq. 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, feature_pair
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class KID(Metric):
    """mean k(x, x') + mean k(r, r') - 2 mean k(x, r) over all pairs of different images; k(a, b) = (a.b / d + 1)^3.

    It is unbiased at every N, so it may be below 0 and needs no extrapolation. It uses *all* pairs. The field takes the
    mean over 100 random subsets of 1,000, which depends on the draw, throws away nine pairs in ten or more, and has a
    spread that is not its error. Both values agree up to that draw.

    The interval is for this reference, from each sample's influence, the Hájek projection: with h(x, x') = k(x, x') -
    g(x) - g(x'), g(x) = mean k(x, r), it is IF_i = 2 (mean over j of h(x_i, x_j) - mean h). If samples and reference
    are almost indistinguishable, it is too wide, by a factor of at most the root of 2: the row means then vary because
    they have finitely many terms, with twice the variance of the second-order term. Two samples are one pair, whose
    influences are equal, so they have no interval.
    """

    VERSION: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("kid",)
    lower_is_better: ClassVar[dict[str, bool]] = {"kid": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the reference, at least 2 each; arrays: influence (N,).

        Raises ValueError for fewer, for values that are not finite and for dimensions that differ.
        """
        from nag.intervals import influence_interval
        from nag.metrics.neighbours import seen
        from nag.metrics.pairs import between, within

        x, r = seen(*feature_pair(samples, reference, self.least, self.least))
        n, m = len(x), len(r)
        within_r = float(within(r).kernels.cubic.mean()) / (m - 1)
        k, g = within(x).kernels.cubic / (n - 1), between(x, r).kernels.cubic / m
        value = float(k.mean() - 2 * g.mean()) + within_r
        h = k - g * (n - 2) / (n - 1)  # mean of h(x_i, x_j) over the others, up to a constant
        IF = (2 * (h - h.mean())).cpu().numpy()
        low, high = influence_interval(value, IF) if n > 2 else (None, None)
        reason = None if n > 2 else "no interval: two samples are one pair"
        score = Score(value=value, low=low, high=high, extrapolated=None, reason=reason)
        return Scores(values={"kid": score}, arrays={"influence": IF.astype("float32")})
