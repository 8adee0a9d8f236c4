"""How the samples' classes are distributed against the reference's, and FID without that difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from nag.metrics.classes import LISTED, Classes, classes_of
from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair, plain
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class LabelBalance(Metric):
    """label_imbalance is the total variation between the classes of samples and reference, half the sum of |p_c - q_c|:
    the share of the samples that would have to be of another class. It says how labels were chosen, not how good the
    samples are. fid_balanced is FID with each class weighed as in the reference, at the moments

    mu = sum q_c mu_c,   S = sum q_c (S_c + (mu_c - mu)(mu_c - mu)^T).

    So FID minus fid_balanced is what the imbalance costs, and fid_balanced what is left: quality. Its influence is
    q_c N / n_c (IF_i - mean of IF over the class), with FID's IF at these moments; the interval is for this reference
    and these labels. Its bias in N is FID's or more. Without samples of a class of the reference it has no value.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})
    names: ClassVar[tuple[str, ...]] = ("fid_balanced", "label_imbalance")
    lower_is_better: ClassVar[dict[str, bool | None]] = {"fid_balanced": True, "label_imbalance": None}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    least_of_class: ClassVar[int] = 1
    shown: ClassVar[dict[str, Shown]] = {
        "fid_balanced": Shown(
            label="FID, balanced",
            heading="FID\nbalanced",
            format="number",
            beside="By class",
            note="Balanced: with each class weighed as in the reference, so an imbalance of labels does not count.",
        ),
        "label_imbalance": Shown(
            heading="label\nimbal.",
            cost=True,
            note="Label imbalance: total variation between the classes of samples and reference images, 0 is alike.",
        ),
    }

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and labels (N,) of the samples, features (N_r, d) and labels (N_r,) of the reference.

        arrays: influence (N,) on fid_balanced, if it has a value. Raises ValueError as FID does, and without labels.
        """
        x, r = feature_pair(samples, reference, self.least, self.least)
        classes = classes_of(samples, reference)
        p = [len(rows) / len(x) for rows in classes.samples]
        q = [len(rows) / len(r) for rows in classes.reference]
        imbalance = plain(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
        score, arrays = _balanced(x, classes, q, reference)
        table = classes.table({"share_of_samples": [*p], "share_of_reference": [*q]}, "", True, None)
        return Scores(values={"fid_balanced": score, "label_imbalance": imbalance}, arrays=arrays, by_class=table)


def expected_by_chance(samples: Sequence[int], reference: Sequence[int]) -> float:
    """The total variation to expect if the images of both sides, so many by class, drew their classes from one
    distribution: half the sum of the mean absolute deviations of normal counts.
    """
    n, m = sum(samples), sum(reference)
    shares = [(a + b) / (n + m) for a, b in zip(samples, reference, strict=True)]
    return sum((2 / math.pi * p * (1 - p) * (1 / n + 1 / m)) ** 0.5 for p in shares) / 2


def _balanced(
    x: np.ndarray, classes: Classes, q: Sequence[float], reference: Mapping[str, np.ndarray]
) -> tuple[Score, dict[str, np.ndarray]]:
    import numpy as np

    from nag.intervals import influence_interval
    from nag.metrics.fid import gaussian, sources
    from nag.metrics.moments import mixture, moments

    target = gaussian(sources(x, reference, "features"))
    lacking = [c for c, rows, share in zip(classes.labels, classes.samples, q, strict=True) if share and not len(rows)]
    if lacking:
        more = f" and {len(lacking) - LISTED:,} more" if len(lacking) > LISTED else ""
        what = f"class {', '.join(map(str, lacking[:LISTED]))}{more}"
        reason = f"no value: there are no samples of {what}, which the reference has"
        return Score(value=None, low=None, high=None, extrapolated=None, reason=reason), {}
    weighed = [(rows, share) for rows, share in zip(classes.samples, q, strict=True) if share]
    mixed = mixture([moments(x[rows]) for rows, _ in weighed], [share for _, share in weighed], len(x))
    value, IF = target.influence(x, mixed)
    influence = np.zeros(len(x))
    for rows, share in weighed:
        influence[rows] = share * len(x) / len(rows) * (IF[rows] - IF[rows].mean())
    low = high = None
    unknown: str | None = None
    if len(x) > target.rank:
        low, high = influence_interval(value, influence)
    else:
        unknown = f"no interval: N = {len(x)} is not above the reference's dimension {target.rank}"
    score = Score(value=value, low=low, high=high, extrapolated=None, reason=unknown)
    return score, {"influence": influence.astype("float32")}
