"""Fréchet distance of features, with its interval, its extrapolation in N and each sample's influence on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from nag.metrics import Score, Scores, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

    from nag.metrics.frechet import Reference


@method
class FID:
    """`value` is D(N), as papers report it; `low`, `high` are its 95 % influence interval for this reference.

    `extrapolated` is 2 D(N) - mean of D on [0, N/2) and [N/2, N): D(N) is biased upward by about c / N, where c differs
    between cells, and this removes it. So compare extrapolated values. Samples must stand in no order.

    The interval needs N, the extrapolation N/2, above *the dimension*: the rank of the reference's covariance. Only on
    that support does D bend with S (a root of F^T S F); off it, as in pixels that never change, D is linear in S and
    has no bias. With fewer samples they are None, with the reason.

    against: the images that were trained on, as papers have it, or those held out, which memorising does not please.
    """

    against: Literal["train", "held_out"] = "train"

    VERSION: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("fid",) if self.against == "train" else ("fid_held_out",)

    @property
    def lower_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self.names, True)

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) or moments of the reference; arrays: influence (N,).

        Raises ValueError below two samples, for values that are not finite and where the dimensions differ.
        """
        x = rows(samples, "features", "sample features", self.least)
        source = "features" if self.against == "train" else "held_out"
        score, influence = frechet_score(x, reference, source)
        return Scores(values={self.names[0]: score}, arrays={"influence": influence})


def frechet_score(x: np.ndarray, reference: Mapping[str, np.ndarray], output: str) -> tuple[Score, np.ndarray]:
    """What `FID` says of (N, d) features against an output of the reference, of which it takes the moments where they
    are there, and the influence, (N,) float32.

    Raises ValueError where the reference has neither or they are of another dimension.
    """
    from nag.metrics.frechet import Reference
    from nag.metrics.kept import kept
    from nag.metrics.moments import moments

    mean, cov = (name if output == "features" else f"{name}_{output}" for name in ("mean", "cov"))
    what = "reference features" if output == "features" else f"reference {output} features"
    if mean in reference and cov in reference:
        known = [reference[mean], reference[cov]]
        columns = known[0].size
    elif output in reference:
        known = [rows(reference, output, what, 2)]
        columns = known[0].shape[1]
    else:
        there = ", ".join(reference)
        raise ValueError(f"there are no {what} and no moments of them, {mean} and {cov} (there is: {there})")
    if columns != x.shape[1]:
        raise ValueError(f"sample features have {x.shape[1]} columns, {what} {columns}")

    def gaussian() -> Reference:
        if len(known) == 2:
            return Reference(*known)
        of_rows = moments(known[0])
        return Reference(of_rows.mean, of_rows.cov)

    return kept("score", lambda: _score(x, kept("gaussian", gaussian, *known)), x, *known)


def _score(x: np.ndarray, target: Reference) -> tuple[Score, np.ndarray]:
    from nag.intervals import influence_interval
    from nag.metrics.moments import Moments, moments

    n, half, dim = len(x), len(x) // 2, target.rank
    halves = [moments(x[:half]), moments(x[half:])]
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
