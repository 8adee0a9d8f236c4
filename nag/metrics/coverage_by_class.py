"""Coverage and recall of each class (Naeem et al., ICML 2020, eq. 8; Kynkäänniemi et al., NeurIPS 2019, eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics.classes import Columns, classes_of, mean_and_worst
from nag.metrics.metric import Metric, Scores, Shown, feature_pair
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np


@method
class CoverageByClass(Metric):
    """coverage_by_class: the mean over classes of the share of a class's reference images whose ball, to the k-th
    nearest image of the class, holds a sample of the class; recall_by_class: of those inside such a ball of a sample.
    The worst classes stand beside them, since a class that is lost hardly shows in the coverage of all.

    A class takes part with more than k samples and reference images; the others are left out, which is said. Both
    depend on k and on the numbers in the class: compare at equal ones only.
    k: a ball reaches the k-th nearest image.
    """

    k: Annotated[Int, Field(ge=1, le=100)] = 3

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})
    names: ClassVar[tuple[str, ...]] = (
        *("coverage_by_class", "coverage_worst_class"),
        *("recall_by_class", "recall_worst_class"),
    )
    lower_is_better: ClassVar[dict[str, bool]] = dict.fromkeys(names, False)
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "coverage_by_class": Shown(heading="cover. by\nclass", beside="By class"),
        "coverage_worst_class": Shown(label="coverage of the worst class", heading="cover.\nworst", beside="By class"),
        "recall_by_class": Shown(heading="R by\nclass", beside="By class"),
        "recall_worst_class": Shown(label="recall of the worst class", heading="R worst", beside="By class"),
    }

    @property
    def least_of_class(self) -> int:
        return self.k + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and labels (N,) of the samples, features (N_r, d) and labels (N_r,) of the reference.

        Raises ValueError without labels, for values that are not finite and for dimensions that differ.
        """
        x, r = feature_pair(samples, reference, self.least, self.least)
        classes = classes_of(samples, reference)
        columns: Columns = {name: [None] * len(classes.labels) for name in ("coverage_by_class", "recall_by_class")}
        for i in classes.big_enough(self.least_of_class):
            found = self._shares(x[classes.samples[i]], r[classes.reference[i]])
            columns["coverage_by_class"][i], columns["recall_by_class"][i] = found
        left_out = classes.left_out(self.least_of_class)
        values = mean_and_worst(self.names[:2], columns["coverage_by_class"], False, left_out)
        values |= mean_and_worst(self.names[2:], columns["recall_by_class"], False, left_out)
        ranks = "coverage_by_class" if values["coverage_by_class"]["value"] is not None else ""
        return Scores(values=values, arrays={}, by_class=classes.table(columns, ranks, False, left_out))

    def _shares(self, x: np.ndarray, r: np.ndarray) -> tuple[float, float]:
        """Coverage and recall of one class."""
        from nag.metrics.cache import apart
        from nag.metrics.neighbours import seen
        from nag.metrics.pairs import between

        with apart():
            found = between(*seen(x, r), self.k, reach=True)
        assert found.reached is not None
        return int(found.held[self.k].sum()) / len(r), int(found.reached[self.k].sum()) / len(r)
