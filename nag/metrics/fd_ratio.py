"""FDr^k: Fréchet distances in units of that between real images (Yang et al., arXiv 2604.28190)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from nag.metrics.metric import Metric, Score, Scores, Shown, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

    from nag.metrics.frechet import Reference

ROUNDING = 1e-12  # of a distance, in units of the covariance's trace


@method
class FDRatio(Metric):
    """D(samples, training images) / D(held-out images, training images): 1 is as far as real images are.

    D is biased upward in N, so both sides are of equal N, the smaller number n of samples and held-out images: the
    larger set enters as the mean of D over disjoint random parts of n rows, the same rows for all cells of N samples.
    With one extractor this is FDr; with several, the report adds the mean over them, FDr^k.

    The bias is about c / n on both sides, with a c of their own, so equal n does not cancel it. `extrapolated`, for
    differences of cells, is 2 D(N) - (mean of D on halves) of the samples, as in FID, over the *same* D(n) of the
    held-out images: a common unit. The unit is not extrapolated, since without its bias it is near 0: held-out and
    training images are of one distribution, and a ratio to about 0 is noise.

    The interval covers other samples of the network and other held-out images, for these training images: the relative
    variances of numerator and denominator, from the influences, add up; it is too wide by 10 to 30 % where held-out and
    training images are of one distribution. Differences of cells share the held-out images
    and use the samples' influences alone. As in FID, the interval needs n, and the extrapolation N / 2, above the
    dimension: the rank of the training images' covariance.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("fd_ratio",)
    lower_is_better: ClassVar[dict[str, bool]] = {"fd_ratio": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True
    against: ClassVar[Literal["held_out"]] = "held_out"
    shown: ClassVar[dict[str, Shown]] = {
        "fd_ratio": Shown(
            label="FD ratio", heading="FDr", format="number", leads=True, mean_label="FDr^k", at_least=0.0
        )
    }

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) or moments of the training images, held_out (M, d).

        arrays: influence (N,) of the samples on the ratio. Raises ValueError as FID does, and where the held-out images
        are at no distance.
        """
        import numpy as np

        from nag.intervals import Z

        x = rows(samples, "features", "sample features", self.least)
        h = rows(reference, "held_out", "held-out features", self.least)
        n = min(len(x), len(h))
        ours, theirs = _side(x, n, reference), _side(h, n, reference)
        if theirs.value <= ROUNDING * theirs.spread:
            raise ValueError("the held-out images are at distance 0 from the training images: they are the same")
        value, influence = ours.value / theirs.value, ours.influence / theirs.value
        low = high = extrapolated = None
        if n > ours.dim:
            half = Z * float(np.hypot(influence.std(ddof=1) / len(x) ** 0.5, value * theirs.relative_error))
            low, high = value - half, value + half
        if ours.limit is not None:
            extrapolated = ours.limit / theirs.value
        score = Score(value=value, low=low, high=high, extrapolated=extrapolated, reason=_reason(n, len(x), ours))
        return Scores(values={"fd_ratio": score}, arrays={"influence": influence.astype("float32")})


class _Side(NamedTuple):
    value: float  # D at n rows
    limit: float | None  # the extrapolated D; None if half of the rows are not above the dimension
    influence: np.ndarray  # (N,) of each row on D
    dim: int
    spread: float  # trace of the training images' covariance

    @property
    def relative_error(self) -> float:
        """The standard error of D over D."""
        return float(self.influence.std(ddof=1)) / len(self.influence) ** 0.5 / self.value


def _side(x: np.ndarray, n: int, reference: Mapping[str, np.ndarray]) -> _Side:
    """The distance of (N, d) features from the training images at n rows of N."""
    from nag.metrics.cache import kept
    from nag.metrics.fid import frechet_score, gaussian, sources

    known = sources(x, reference, "features")
    target = gaussian(known)
    score, influence = frechet_score(x, reference, "features")
    assert score["value"] is not None
    value = score["value"]
    if n < len(x):
        value = kept(f"distance at {n}", lambda: _at(x, n, target), x, *known)
    return _Side(value, score["extrapolated"], influence, target.rank, target.trace)


def _at(x: np.ndarray, n: int, target: Reference) -> float:
    """The mean of D over disjoint random parts of n rows: as many as there are."""
    import numpy as np

    from nag import noise
    from nag.metrics.moments import moments

    order = noise.permutation(0, 0, len(x), noise.HALVES)
    parts = [np.sort(order[start : start + n]) for start in range(0, len(x) - n + 1, n)]
    seen = [moments(x[part]) for part in parts]
    return sum(target.distance(part.mean, part.cov) for part in seen) / len(seen)


def _reason(n: int, count: int, ours: _Side) -> str | None:
    lacking = []
    if n <= ours.dim:
        lacking.append(f"no interval: the smaller of samples and held-out images, {n}, is not above {ours.dim}")
    if ours.limit is None:
        lacking.append(f"no extrapolated value: N/2 = {count // 2} is not above {ours.dim}")
    return f"{'; '.join(lacking)}, the reference's dimension" if lacking else None
