"""The rows of samples and reference by class, for metrics that compare class with class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nag.metrics.metric import ByClass, Score, plain

if TYPE_CHECKING:
    import numpy as np

LISTED = 3  # classes that a reason names

Columns = dict[str, list[float | None]]


class Classes(NamedTuple):
    """labels: of every class, ascending. samples, reference: by class, the rows (n,) of its images, ascending."""

    labels: list[int]
    samples: list[np.ndarray]
    reference: list[np.ndarray]

    def big_enough(self, least: int) -> Iterator[int]:
        """The places of the classes with at least so many samples and reference images."""
        for place, (ours, theirs) in enumerate(zip(self.samples, self.reference, strict=True)):
            if min(len(ours), len(theirs)) >= least:
                yield place

    def left_out(self, least: int) -> str | None:
        """Which classes have fewer, with their numbers; None if none has."""
        places = sorted({*range(len(self.labels))} - {*self.big_enough(least)})
        if not places:
            return None
        sizes = [(self.labels[i], len(self.samples[i]), len(self.reference[i])) for i in places[:LISTED]]
        named = [f"class {label} has {n:,} samples and {m:,} reference images" for label, n, m in sizes]
        more = f"; and {len(places) - LISTED:,} more" if len(places) > LISTED else ""
        what = f"{len(places):,} of {len(self.labels):,} classes left out, as {least:,} of both are needed"
        return f"{what}: {'; '.join(named)}{more}"

    def table(self, values: Columns, ranks: str, lower_is_better: bool, left_out: str | None) -> ByClass:
        return ByClass(
            labels=self.labels,
            samples=[len(rows) for rows in self.samples],
            reference=[len(rows) for rows in self.reference],
            values=values,
            ranks=ranks,
            lower_is_better=lower_is_better,
            left_out=left_out,
        )


def classes_of(samples: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Classes:
    """Raises ValueError if one side has no labels, or the reference one class."""
    import numpy as np

    ours, theirs = _rows_by_class(samples, "samples"), _rows_by_class(reference, "reference images")
    if len(theirs) < 2:
        raise ValueError("the reference images have no labels, or are all of one class: nothing to tell apart")
    none = np.empty(0, np.int64)
    labels = sorted({*ours, *theirs})
    return Classes(labels, *([side.get(label, none) for label in labels] for side in (ours, theirs)))


def _rows_by_class(source: Mapping[str, np.ndarray], what: str) -> dict[int, np.ndarray]:
    import numpy as np

    if "labels" not in source:
        raise ValueError(f"the {what} have no labels, which a metric by class needs")
    labels = source["labels"]
    if labels.shape != source["features"].shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels of the {what} must be whole numbers, one for each; got {labels.dtype} {labels.shape}")
    order = np.argsort(labels, kind="stable")
    known, first = np.unique(labels[order], return_index=True)
    return dict(zip(known.tolist(), np.split(order, first[1:]), strict=True))


def mean_and_worst(
    names: Sequence[str], column: Iterable[float | None], lower_is_better: bool, reason: str | None
) -> dict[str, Score]:
    """The mean over the classes that have a value, and the worst of them, under two names; without any, the reason."""
    known = [value for value in column if value is not None]
    if not known:
        empty = Score(value=None, low=None, high=None, extrapolated=None, reason=f"no value: {reason}")
        return dict.fromkeys(names, empty)
    worst = max(known) if lower_is_better else min(known)
    return dict(zip(names, (plain(sum(known) / len(known)), plain(worst)), strict=True))
