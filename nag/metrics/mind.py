"""MIND, the Monge Inception Distance: sliced Wasserstein distance of features (Berthet et al., arXiv 2605.06797)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import Field

from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np

ALPHA = 3  # times the dimension: the paper's factor
AT_ONCE = 50  # directions, which bounds the memory: 20 MB an array for 50,000 rows


@method
class MIND(Metric):
    """3 d times the mean over random unit directions u of W_2^2 of the projections u . x and u . r, by sorting.

    The paper takes as many reference images as samples. Here all are used: with different numbers N and N_r the sorted
    values are coupled by their quantiles, which is the exact W_2^2 of the two empirical distributions; with equal ones
    it is the paper's mean of squared differences. The directions are the same for all cells (keyed, not drawn), so a
    difference of cells has no noise from them; the paper's seed and torch's generator would give others.

    It is biased upward in N and N_r, less than FID but not by zero: compare at equal ones.

    The interval is for this reference and these directions, from the influence of each sample, 3 d times the mean
    over u of the Kantorovich potential phi(u . x_i), with phi'(s) = 2 (s - T(s)) and T the coupling.
    directions: how many.
    """

    directions: Annotated[Int, Field(ge=1, le=100_000)] = 1000

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("mind",)
    lower_is_better: ClassVar[dict[str, bool]] = {"mind": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {"mind": Shown(label="MIND", heading="MIND", format="number", at_least=0.0)}

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the reference, at least 2 each; arrays: influence (N,).

        Raises ValueError for fewer, for values that are not finite and for dimensions that differ.
        """
        import numpy as np

        from nag.intervals import influence_interval
        from nag.metrics.neighbours import parts

        x, r = feature_pair(samples, reference, self.least, self.least)
        centre = r.mean(axis=0, dtype=np.float64)
        coupling = _coupling(len(x), len(r))
        total, IF = 0.0, np.zeros(len(x))
        for part in parts(0, self.directions, AT_ONCE):
            u = unit_vectors(range(part.start, part.stop), x.shape[1])
            distances, potentials = _wasserstein(projected(x, u, centre), projected(r, u, centre), coupling)
            total += float(distances.sum())
            IF += potentials.sum(axis=0)
        scale = ALPHA * x.shape[1] / self.directions
        value, IF = scale * total, scale * (IF - IF.mean())
        low, high = influence_interval(value, IF)
        score = Score(value=value, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values={"mind": score}, arrays={"influence": IF.astype("float32")})


def unit_vectors(which: range, dim: int) -> np.ndarray:
    """Unit vectors (len(which), dim) float64, uniform on the sphere: the same numbers on any machine."""
    import numpy as np

    from nag import noise

    u = noise.normal(0, which, 0, (dim,), noise.DIRECTIONS).astype(np.float64)
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def projected(x: np.ndarray, u: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """u . (x - centre) in float64, (directions, N), converted a block of rows at a time."""
    import numpy as np

    from nag.metrics.moments import ROWS
    from nag.metrics.neighbours import parts

    out = np.empty((len(u), len(x)))
    for part in parts(0, len(x), ROWS):
        out[:, part] = u @ np.subtract(x[part], centre, dtype=np.float64).T
    return out


class _Coupling(NamedTuple):
    """The quantile coupling of N and M sorted values: pieces of probability `weight` pair rank `of_x` with `of_r`."""

    weight: np.ndarray
    of_x: np.ndarray
    of_r: np.ndarray


def _coupling(n: int, m: int) -> _Coupling:
    import numpy as np

    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    starts = np.concatenate([[0], ends[:-1]])
    return _Coupling((ends - starts) / (n * m), starts // m, starts // n)


def _wasserstein(x: np.ndarray, r: np.ndarray, coupling: _Coupling) -> tuple[np.ndarray, np.ndarray]:
    """W_2^2 (K,) of the rows of x (K, N) and r (K, M), and the potential (K, N) at each x, up to a constant."""
    import numpy as np

    order = np.argsort(x, axis=1)
    x, r = np.take_along_axis(x, order, axis=1), np.sort(r, axis=1)
    gap = x[:, coupling.of_x] - r[:, coupling.of_r]
    distances = np.square(gap) @ coupling.weight
    first = np.flatnonzero(np.diff(coupling.of_x, prepend=-1))  # where the pieces of each x begin
    moved = np.add.reduceat(gap * coupling.weight, first, axis=1) * x.shape[1]  # x - T(x), T the mean over its pieces
    steps = np.diff(x, axis=1) * (moved[:, 1:] + moved[:, :-1])  # the trapezoid of phi' = 2 (s - T(s))
    potential = np.concatenate([np.zeros((len(x), 1)), np.cumsum(steps, axis=1)], axis=1)
    back = np.empty_like(potential)
    np.put_along_axis(back, order, potential, axis=1)
    return distances, back
