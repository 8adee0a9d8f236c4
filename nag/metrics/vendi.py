"""Vendi score: how many different images there are, effectively (Friedman and Dieng, TMLR 2023, eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class Vendi(Metric):
    """exp of the entropy of the eigenvalues of K / N, with the cosine kernel K_ij = x_i . x_j / |x_i| |x_j|.

    1 if all images point in one direction, at most the smaller of N and d. It needs no reference and knows nothing of
    quality: noise may have the most. K / N has the same eigenvalues, apart from zeros, as the d x d matrix of second
    moments of the normalised rows, which is what is decomposed: exact, and small for any N.

    It is biased downward in N, so compare at equal N. The interval is of its expectation at that N, from the influence
    IF_i = VS (-log lambda . (u . x_i)^2 - H) with the eigenpairs (lambda, u) and the entropy H.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("vendi",)
    lower_is_better: ClassVar[dict[str, bool]] = {"vendi": False}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    alone: ClassVar[bool] = True
    shown: ClassVar[dict[str, Shown]] = {
        "vendi": Shown(label="Vendi score", heading="Vendi", format="number", at_least=1.0)
    }

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples; the reference is not used. arrays: influence (N,) float32.

        Raises ValueError for fewer than two samples and for rows that are not finite or all zero.
        """
        import numpy as np

        from nag.intervals import influence_interval
        from nag.metrics.moments import ROWS
        from nag.metrics.neighbours import Directions, parts

        features = rows(samples, "features", "sample features", self.least)
        x, (n, dim) = Directions(features, "sample features"), features.shape
        second = np.zeros((dim, dim))
        for part in parts(0, n, ROWS):
            block = x.block(part).numpy()
            second += block.T @ block / n
        eigenvalues, vectors = np.linalg.eigh(second)
        real = eigenvalues > dim * np.finfo(np.float64).eps * eigenvalues[-1]
        logs, vectors = np.log(eigenvalues[real]), vectors[:, real]
        entropy = float(-(eigenvalues[real] * logs).sum())
        value, IF = float(np.exp(entropy)), np.empty(n)
        for part in parts(0, n, ROWS):
            IF[part] = -((x.block(part).numpy() @ vectors) ** 2 @ logs)
        IF = value * (IF - IF.mean())
        low, high = influence_interval(value, IF)
        score = Score(value=value, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values={"vendi": score}, arrays={"influence": IF.astype("float32")})
