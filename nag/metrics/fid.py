"""Fréchet distance of features, with its interval, its extrapolation in N and each sample's influence on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from nag.metrics.metric import Metric, Score, Scores, Shown, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

    from nag.metrics.frechet import Reference
    from nag.metrics.moments import Moments


@method
class FID(Metric):
    """`value` is D(N), as papers report it; `low`, `high` are its 95 % influence interval for this reference.

    `extrapolated` is 2 D(N) minus the mean of D on two random halves, the same rows for all cells of N samples: D(N)
    is biased upward by about c / N, where c differs between cells, and this removes that bias. It is for differences
    between cells, in which the remaining bias mostly cancels. It does not estimate the limit: unless N is many times
    the dimension, it is too low by more than its interval covers (`python -m benchmarks.coverage limit`).

    The interval needs N, and the extrapolation N/2, above *the dimension*: the rank of the reference's covariance. Only
    on that support is D nonlinear in S (a root of F^T S F); elsewhere, as in pixels that never change, D is linear in S
    and has no bias. With fewer samples they are None, with the reason.

    against: the training images, as in papers, or the held-out images, which do not reward memorisation.
    """

    against: Literal["train", "held_out"] = "train"

    VERSION: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True
    shown: ClassVar[dict[str, Shown]] = {
        "fid": Shown(format="number", at_least=0.0),
        "fid_held_out": Shown(
            label="FID to held-out images",
            heading="FID\nheld-out",
            format="number",
            at_least=0.0,
            beside="To held-out images",
            note="Held-out images were not trained on: a network that copies is nearer to its training images than to "
            "them.",
        ),
    }

    @property
    def names(self) -> tuple[str, ...]:
        return ("fid",) if self.against == "train" else ("fid_held_out",)

    @property
    def lower_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self.names, True)

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) or moments of the reference; arrays: influence (N,).

        Raises ValueError below two samples, for values that are not finite and for dimensions that differ.
        """
        x = rows(samples, "features", "sample features", self.least)
        source = "features" if self.against == "train" else "held_out"
        score, influence = frechet_score(x, reference, source)
        return Scores(values={self.names[0]: score}, arrays={"influence": influence})


def frechet_score(x: np.ndarray, reference: Mapping[str, np.ndarray], output: str) -> tuple[Score, np.ndarray]:
    """`FID`'s score of (N, d) features against an output of the reference, and the influence, (N,) float32. The
    reference's moments are used if it has them, else its rows.

    Raises ValueError if the reference has neither or another dimension.
    """
    from nag.metrics.cache import kept

    known = sources(x, reference, output)

    def make() -> tuple[Score, np.ndarray]:
        halves = kept(f"halves of {x.shape[1]} columns", lambda: halves_of(x), x, last=True)  # for held-out images too
        return score_of(x, gaussian(known), halves)

    return kept("score", make, x, *known)


def sources(x: np.ndarray, reference: Mapping[str, np.ndarray], output: str) -> list[np.ndarray]:
    """The arrays that define the Gaussian of an output of the reference: mean and covariance if it has them, else rows.

    Raises ValueError as `frechet_score` does.
    """
    mean, cov = (name if output == "features" else f"{name}_{output}" for name in ("mean", "cov"))
    what = "reference features" if output == "features" else f"reference {output} features"
    if mean in reference and cov in reference:
        known = [reference[mean], reference[cov]]
    elif output in reference:
        known = [rows(reference, output, what, 2)]
    else:
        there = ", ".join(reference)
        raise ValueError(f"there are neither {what} nor their moments, {mean} and {cov} (there is: {there})")
    if known[0].shape[-1] != x.shape[1]:
        raise ValueError(f"sample features have {x.shape[1]} columns, {what} {known[0].shape[-1]}")
    return known


def gaussian(known: list[np.ndarray]) -> Reference:
    """The Gaussian that these arrays define, cached for the next cell."""
    from nag.metrics.cache import kept
    from nag.metrics.frechet import Reference
    from nag.metrics.moments import moments

    def make() -> Reference:
        if len(known) == 2:
            return Reference(*known)
        of_rows = moments(known[0])
        return Reference(of_rows.mean, of_rows.cov)

    return kept("gaussian", make, *known)


def halves_of(x: np.ndarray) -> list[Moments]:
    """The moments of two random halves of (N, d) features."""
    from nag.metrics.moments import moments
    from nag.noise import parts

    return [moments(x[part]) for part in parts(len(x), 2)]


def score_of(x: np.ndarray, target: Reference, halves: Sequence[Moments]) -> tuple[Score, np.ndarray]:
    """As `frechet_score`, against a Gaussian; halves: `halves_of` the features."""
    from nag.intervals import influence_interval
    from nag.metrics.moments import Moments

    n, half, dim = len(x), len(x) // 2, target.rank
    whole = Moments(x.shape[1])
    for part in halves:
        whole.merge(part)
    value, IF = target.influence(x, whole)

    low = high = extrapolated = reason = None
    if n > dim:
        low, high = influence_interval(value, IF)
    if half > dim:
        extrapolated = 2 * value - sum(target.distance(part.mean, part.cov) for part in halves) / 2
    else:
        what = "extrapolated value" if n > dim else "interval and no extrapolated value"
        size = f"N/2 = {half}" if n > dim else f"N = {n}"
        reason = f"no {what}: {size} is not above the reference's dimension {dim}"
    return Score(value=value, low=low, high=high, extrapolated=extrapolated, reason=reason), IF.astype("float32")
