"""CMMD: the squared MMD of normalised embeddings with a Gaussian kernel (Jayasumana et al., CVPR 2024, eq. 4 and 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SCALE = 1000.0  # makes the values readable


@method
class CMMD(Metric):
    """1000 (mean k(x, x') + mean k(r, r') - 2 mean k(x, r)), k(a, b) = exp(-|a - b|^2 / 200), of rows of length 1.

    As published it is of `clip`'s embeddings, mode: cmmd. On another extractor it is the same kernel on that one's
    normalised features, and no published value is comparable.

    The authors' code takes the means over all pairs, with each image and itself: k is 1 there, so the value is too high
    by about 1000 (1 - mean k(x, x')) / N, and the same for the reference. `unbiased` leaves those pairs out, as
    the paper's eq. 4 does, and may be below 0. Compare at equal N otherwise.

    The interval is for this reference, from the influence IF_i = 2000 (h_i - mean h), h_i = mean over j of k(x_i, x_j)
    minus mean over j of k(x_i, r_j). If samples and reference are almost indistinguishable it is too wide, as KID's.
    """

    unbiased: bool = False

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("cmmd",)
    lower_is_better: ClassVar[dict[str, bool]] = {"cmmd": True}
    least: ClassVar[int] = 3
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {"cmmd": Shown(label="CMMD", heading="CMMD", format="number")}

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the reference, at least 3 each; arrays: influence (N,).

        Raises ValueError for fewer, for rows that are not finite or all zero and for dimensions that differ.
        """
        from nag.intervals import influence_interval
        from nag.metrics.neighbours import check_directions, seen
        from nag.metrics.pairs import between, within

        x, r = seen(*feature_pair(samples, reference, self.least, self.least))
        check_directions(x, "sample features")
        check_directions(r, "reference features")
        within_r, k = (self._mean(within(points).kernels.gaussian) for points in (r, x))
        g = between(x, r).kernels.gaussian / len(r)
        value, h = SCALE * float(k.mean() - 2 * g.mean() + within_r.mean()), k - g
        IF = (2 * SCALE * (h - h.mean())).cpu().numpy()
        low, high = influence_interval(value, IF)
        score = Score(value=value, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values={"cmmd": score}, arrays={"influence": IF.astype("float32")})

    def _mean(self, others: Tensor) -> Tensor:
        """(N,) mean of k(a_i, a_j) over j, from the sum over the others."""
        n = len(others)
        return others / (n - 1) if self.unbiased else (others + 1) / n
