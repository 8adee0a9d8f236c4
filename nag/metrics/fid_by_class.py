"""The Fréchet distance of each class: its samples against the reference's images of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics.classes import Columns, classes_of, mean_and_worst
from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np

NOTE = "By class: means over the classes, and the worst; each against the reference's images of it, whatever its share."


@method
class FIDByClass(Metric):
    """fid_by_class is the mean over the classes, fid_worst_class the largest. Each class is scored as in FID, with its
    own n samples: D(n), its interval, and 2 D(n) minus the mean of D on halves, without the bias c / n. Classes are
    ranked by the latter if all have it, so that few samples alone do not make a class bad.

    A class takes part with more samples and more reference images than the dimension, the rank of the covariance of
    all reference features. The others are left out, which is said. 50 samples a class never suffice for Inception's
    2,048: `directions` compares on so many fixed random directions of the features (those of races,
    docs/statistics.md), which is in another unit. Reference images are the first `reference_rows`.

    How often a class comes does not count: that is `label_balance`. The interval of the mean is for this reference and
    these labels. directions: None takes the features as they are.
    """

    directions: Annotated[Int, Field(ge=1, le=4096)] | None = None

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})
    names: ClassVar[tuple[str, ...]] = ("fid_by_class", "fid_worst_class")
    lower_is_better: ClassVar[dict[str, bool]] = {"fid_by_class": True, "fid_worst_class": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = True
    shown: ClassVar[dict[str, Shown]] = {
        "fid_by_class": Shown(
            label="FID by class", heading="FID by\nclass", format="number", beside="By class", note=NOTE
        ),
        "fid_worst_class": Shown(
            label="FID of the worst class", heading="FID\nworst", format="number", beside="By class", note=NOTE
        ),
    }

    @property
    def least_of_class(self) -> int:
        return 2 if self.directions is None else self.directions + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and labels (N,) of the samples, features (N_r, d) and labels (N_r,) of the reference.

        arrays: influence (N,) on the mean over the classes, 0 where a class is left out. Raises ValueError as FID does,
        and without labels.
        """
        import numpy as np

        x, r = feature_pair(samples, reference, self.least, self.least)
        classes = classes_of(samples, reference)
        least = self._dimension(x, reference) + 1
        if self.directions is not None and self.directions < x.shape[1]:
            x, r = (_on_directions(rows, self.directions) for rows in (x, r))
        scored = {i: _score(x[classes.samples[i]], r[classes.reference[i]]) for i in classes.big_enough(least)}
        scores = [scored[i][0] if i in scored else None for i in range(len(classes.labels))]
        columns: Columns = {
            "fid_by_class": [score and score["value"] for score in scores],
            "low": [score and score["low"] for score in scores],
            "high": [score and score["high"] for score in scores],
            "extrapolated": [score and score["extrapolated"] for score in scores],
        }
        left_out, influence = classes.left_out(least), np.zeros(len(x))
        for i, (_, IF) in scored.items():
            influence[classes.samples[i]] = IF * (len(x) / (len(IF) * len(scored)))
        values, ranks = mean_and_worst(self.names, columns["fid_by_class"], True, left_out), ""
        if scored:
            mean = _with_interval(values["fid_by_class"], [score for score, _ in scored.values()], influence)
            values["fid_by_class"] = mean
            ranks = "fid_by_class" if mean["extrapolated"] is None else "extrapolated"
        arrays = {"influence": influence.astype("float32")}
        return Scores(values=values, arrays=arrays, by_class=classes.table(columns, ranks, True, left_out))

    def _dimension(self, x: np.ndarray, reference: Mapping[str, np.ndarray]) -> int:
        """The rank of the covariance of all reference features, at most the directions."""
        from nag.metrics.fid import gaussian, sources

        rank = gaussian(sources(x, reference, "features")).rank
        return rank if self.directions is None else min(rank, self.directions)


def _on_directions(rows: np.ndarray, directions: int) -> np.ndarray:
    """(N, directions) float64, a part at a time."""
    import numpy as np

    from nag.metrics.moments import ROWS
    from nag.metrics.neighbours import parts
    from nag.racing import projection

    P = projection(rows.shape[1], directions)
    return np.concatenate([rows[part].astype(np.float64) @ P for part in parts(0, len(rows), ROWS)])


def _score(x: np.ndarray, r: np.ndarray) -> tuple[Score, np.ndarray]:
    """FID's score of one class, and the influences. Not cached: nobody asks for it again."""
    from nag.metrics.fid import halves_of, score_of
    from nag.metrics.frechet import Reference
    from nag.metrics.moments import moments

    seen = moments(r)
    return score_of(x, Reference(seen.mean, seen.cov), halves_of(x))


def _with_interval(mean: Score, scores: Sequence[Score], influence: np.ndarray) -> Score:
    """The mean over classes with its interval, and without its bias if every class has such a value."""
    from nag.intervals import influence_interval

    assert mean["value"] is not None
    low, high = influence_interval(mean["value"], influence)
    limits = [score["extrapolated"] for score in scores if score["extrapolated"] is not None]
    extrapolated = sum(limits) / len(limits) if len(limits) == len(scores) else None
    reason = next((score["reason"] for score in scores if score["reason"]), None)
    return Score(value=mean["value"], low=low, high=high, extrapolated=extrapolated, reason=reason)
