"""Metrics turn stored outputs of an extractor, of a cell and of its reference, into numbers.

Both are mappings from the outputs' names (features, logits, spatial, colour) to arrays with a row for each image. A
reference may also hold "held_out", the features of images that were not trained on, and moments (float64, N - 1):
"mean" and "cov" of its features, "mean_spatial" and "cov_spatial", "mean_held_out" and "cov_held_out". Fréchet
distances use the moments if there are any: published statistics have no rows, and moments may be of more images than
the rows.

Add one: a file here with a class that has `needs`, `names`, `lower_is_better`, `least`, `extrapolates` and a call, and
a line in `nag/registry.py`. `shown` declares how reports write its values. One that needs "labels" and has
`least_of_class` also reports by class (`classes.py`). `moments.py` and `frechet.py` compute
Fréchet distances, `neighbours.py` metrics over pairs; `cache.py` keeps results of a reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NotRequired, Protocol, TypedDict

from nag.registry import completed, method

if TYPE_CHECKING:
    import numpy as np


class Score(TypedDict):
    """One value of a metric. A missing number is None, never NaN."""

    value: float | None
    low: float | None  # 95 % interval from this cell alone
    high: float | None
    extrapolated: float | None  # the value without its bias in N, for differences
    reason: str | None  # why one of them is None although the metric usually has it


class ByClass(TypedDict):
    """What a metric says of single classes, of those of the samples and of the reference, ascending.

    samples, reference: how many images of each. values: columns by name, None where a class is left out. ranks: the
    column that tells good classes from bad ones, "" if none does. left_out: why classes have no value, and how many.
    """

    labels: list[int]
    samples: list[int]
    reference: list[int]
    values: dict[str, list[float | None]]
    ranks: str
    lower_is_better: bool
    left_out: str | None


class Scores(TypedDict):
    """arrays: "influence", (N,) float32, if the metric has it: how far each sample moves its first value; of its other
    values, under the names of `influence_name`.
    """

    values: dict[str, Score]
    arrays: dict[str, np.ndarray]
    by_class: NotRequired[ByClass]


@method
class Shown:
    """How a report writes one of a metric's values.

    label: the name in words, if it differs from the name. heading: of a narrow column in the terminal.
    format: `number` has three significant digits, `share` three decimals, `signed` three decimals and a sign.
    beside: the title of a table of its own, for values that are shown but not compared; "" if they are compared.
    note: what a reader of that table must know. cost: it says what a setting does or costs, not how good it is, so it
    stands beside NFE and never decides. leads: the report leads with it. mean_label: with several extractors, the
    report adds the mean over them under this name. at_least, at_most: the possible values, where intervals are cut.
    """

    label: str | None = None
    heading: str | None = None
    format: Literal["number", "share", "signed"] = "share"
    beside: str = ""
    note: str = ""
    cost: bool = False
    leads: bool = False
    mean_label: str = ""
    at_least: float | None = None
    at_most: float | None = None


def shown(metric: Any, name: str) -> Shown:
    """How a report writes the value `name` of a metric or measure: as its class declares in `shown`, or by default."""
    cls: Any = completed("metrics", type(metric))
    declared = cls.shown.get(name) if isinstance(cls.shown, Mapping) else None
    return declared if isinstance(declared, Shown) else Shown()


def influence_name(names: Sequence[str], name: str) -> str:
    """The array with the influence on the value `name` of a metric with these names."""
    return "influence" if name == names[0] else f"influence_{name}"


class Metric(Protocol):
    needs: ClassVar[frozenset[str]]  # outputs of the extractor; "labels" are the samples' own
    extrapolates: ClassVar[bool]  # its values are biased in N, so differences are of extrapolated ones
    # The rest may be left out (nag.registry.OPTIONAL).
    alone: ClassVar[bool] = False  # it uses no reference
    of_training: ClassVar[bool] = False  # compared with the network's training images, whatever the reference is
    shown: ClassVar[Mapping[str, Shown]] = {}  # by name, how reports write its values
    plane: ClassVar[tuple[str, str] | None] = None  # (diversity, fidelity): two names, plotted against each other

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def lower_is_better(self) -> Mapping[str, bool | None]:
        """By name; None where neither direction is better."""
        ...

    @property
    def least(self) -> int:
        """The fewest samples that it can be computed from."""
        ...

    @property
    def least_reference(self) -> int:
        """The fewest reference images that it can be computed from."""
        return self.least

    @property
    def against(self) -> Literal["train", "held_out"] | None:
        """The images of the reference that it uses, if there is a choice."""
        return None

    @property
    def least_of_class(self) -> int | None:
        """The fewest samples, and reference images, of one class that it compares; None if it does not go by class."""
        return None

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores: ...


def by_rows(metric: Any) -> bool:
    """Whether it compares single reference images or classes of them, so that moments of all do not suffice."""
    return not metric.extrapolates or metric.least_of_class is not None


def plain(value: float) -> Score:
    """A number without an interval of its own; training seeds give it one."""
    return Score(value=value, low=None, high=None, extrapolated=None, reason=None)


def rows(source: Mapping[str, np.ndarray], output: str, what: str, least: int) -> np.ndarray:
    """An output of the extractor, (N, d). `what` names it in messages: "sample features".

    Raises ValueError if it is missing, has fewer rows than `least` or values that are not finite.
    """
    from nag.metrics.moments import check_features

    if output not in source:
        raise ValueError(f"there are no {what}: this metric needs a row for each image (there is: {', '.join(source)})")
    features = source[output]
    check_features(features, what)
    if len(features) < least:
        raise ValueError(f"at least {least} {what} are needed; got {len(features)}")
    return features


def feature_pair(
    samples: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], least: int, least_reference: int
) -> tuple[np.ndarray, np.ndarray]:
    """The features (N, d) of both. Raises ValueError as `rows` does, and if their dimensions differ."""
    r = rows(reference, "features", "reference features", least_reference)
    x = rows(samples, "features", "sample features", least)
    if x.shape[1] != r.shape[1]:
        raise ValueError(f"sample features have {x.shape[1]} columns, reference features {r.shape[1]}")
    return x, r
