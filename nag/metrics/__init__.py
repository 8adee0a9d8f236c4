"""Metrics: stored features of a cell and of the reference in, numbers out.

Add one: a file here with a class that has `needs`, `names`, `lower_is_better` and a call, and a line in
`nag/registry.py`. `moments.py` and `frechet.py` are the arithmetic below the Fréchet distance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, TypedDict

if TYPE_CHECKING:
    import numpy as np


class Score(TypedDict):
    """One number. None where there is none, never NaN."""

    value: float
    low: float | None  # 95 % interval from this cell alone
    high: float | None
    extrapolated: float | None  # the value without its bias in N, for differences
    reason: str | None  # why low, high or extrapolated is None although the metric has one


class Scores(TypedDict):
    values: dict[str, Score]
    arrays: dict[str, np.ndarray]


class Metric(Protocol):
    needs: ClassVar[frozenset[str]]  # outputs of the extractor; "labels" are the samples' own
    names: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[dict[str, bool]]
    extrapolates: ClassVar[bool]  # its values are biased in N: differences are between extrapolated ones

    @property
    def least(self) -> int:
        """The fewest samples that it can be computed of."""
        ...

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores: ...


def plain(value: float) -> Score:
    """A number without an interval of its own; training seeds give it one."""
    return Score(value=value, low=None, high=None, extrapolated=None, reason=None)


def feature_pair(
    samples: dict[str, np.ndarray], reference: dict[str, np.ndarray], least: int
) -> tuple[np.ndarray, np.ndarray]:
    """The features (N, d) of both. Raises ValueError that says which of them is too few, not finite or of another d."""
    from nag.metrics.moments import check_features

    x, r = samples["features"], reference["features"]
    for features, what in ((r, "reference features"), (x, "sample features")):
        check_features(features, what)
        if len(features) < least:
            raise ValueError(f"at least {least} {what} are needed; got {len(features)}")
    if x.shape[1] != r.shape[1]:
        raise ValueError(f"sample features have {x.shape[1]} columns, reference features {r.shape[1]}")
    return x, r
