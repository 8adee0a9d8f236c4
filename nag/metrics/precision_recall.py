"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, eq. 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics import Scores, feature_pair, plain
from nag.registry import Int, method

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

CELLS = 2**23  # distances held at once (64 MB)
SLACK = 1e-10  # of |a|^2 + |b|^2: far above the rounding of a squared distance in float64, far below any real one


@method
class PrecisionRecall:
    """precision: share of samples inside the reference's balls; recall: share of the reference inside the samples'.

    A point's ball reaches its k-th nearest neighbour among its own kind, itself not counted, and is closed: ties and
    repeats (frequent in stored pixels) are inside. Both depend on N and on k, which must be equal to compare.
    """

    k: Annotated[Int, Field(ge=1, le=100)] = 3

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("precision", "recall")
    lower_is_better: ClassVar[dict[str, bool]] = {"precision": False, "recall": False}
    extrapolates: ClassVar[bool] = False

    @property
    def least(self) -> int:
        return self.k + 1

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) and (N_r, d). Raises ValueError for k points or fewer and for values that are not finite."""
        from nag.metrics.moments import float64

        x, r = feature_pair(samples, reference, self.least)
        r = float64(r)
        centre = r.mean(axis=0)  # distances do not change, their rounding does
        x, r = float64(x) - centre, r - centre
        values = {"precision": plain(_covered(x, r, self.k)), "recall": plain(_covered(r, x, self.k))}
        return Scores(values=values, arrays={})


def _covered(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Share of `points` that lie in the ball of at least one of `centres`."""
    import numpy as np

    radii = np.empty(len(centres))  # squared
    for rows, distances, _ in _distances(centres, centres):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1].clip(min=0)
    inside = sum(int((d <= radii + SLACK * size).any(axis=1).sum()) for _, d, size in _distances(points, centres))
    return inside / len(points)


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each run of rows of a: squared distances to each row of b, and |a|^2 + |b|^2, the scale of their rounding."""
    import numpy as np

    b2 = np.einsum("nd,nd->n", b, b)
    step = max(1, CELLS // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        size = np.einsum("nd,nd->n", a[rows], a[rows])[:, None] + b2
        yield rows, size - 2 * (a[rows] @ b.T), size
