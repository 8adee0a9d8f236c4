"""Mean and covariance of features that arrive in pieces, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

ROWS = 8192  # rows converted to float64 at once, so that 50,000 x 2048 features need no second copy


def float64(array: np.ndarray | Tensor) -> np.ndarray:
    """An array or tensor as a numpy float64 array."""
    import numpy as np

    if hasattr(array, "detach"):
        array = array.detach().cpu().double().numpy()
    return np.asarray(array, dtype=np.float64)


def check_features(features: np.ndarray | Tensor, what: str = "features") -> None:
    """Raise ValueError, naming the first bad row, unless `features` is (N, dim) and finite."""
    import numpy as np

    if features.ndim != 2:
        raise ValueError(f"{what} must be (N, dim); got {tuple(features.shape)}")
    for start in range(0, len(features), ROWS):
        part = features[start : start + ROWS]
        finite = np.isfinite(part if isinstance(part, np.ndarray) else float64(part)).all(axis=1)
        if not finite.all():
            raise ValueError(f"{what}: row {start + int(finite.argmin())} of {len(features)} is not finite")


class Moments:
    """Count, mean and covariance (N - 1) of features of `dim` columns.

    Sums of squares are taken about the mean of the piece and merged (Chan, Golub and LeVeque 1979, eq. 2.1), so a mean
    much larger than the spread costs no digits. Equal pieces in equal order give equal bits.
    """

    def __init__(self, dim: int) -> None:
        import numpy as np

        self.dim = dim
        self.n: float = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # sum of (x - mean)(x - mean)^T

    def add(self, features: np.ndarray | Tensor) -> None:
        """Add (N, dim) features. Raises ValueError for another shape or a value that is not finite."""
        import numpy as np

        check_features(features)
        if features.shape[1] != self.dim:
            raise ValueError(f"features must be (N, {self.dim}); got {tuple(features.shape)}")
        for start in range(0, len(features), ROWS):
            part = features[start : start + ROWS]
            z = np.array(part, dtype=np.float64) if isinstance(part, np.ndarray) else float64(part).copy()
            mean = z.mean(axis=0)
            z -= mean  # in place, and gone before the next: at 2,048 columns they take 134 MB
            self._merge(len(z), mean, z.T @ z)
            del z

    def merge(self, other: Moments) -> None:
        """Add the features counted in `other`. Raises ValueError if the dimensions differ."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge moments of {other.dim} columns into {self.dim}")
        self._merge(other.n, other._mean, other._scatter)

    def _merge(self, n: float, mean: np.ndarray, scatter: np.ndarray) -> None:
        import numpy as np

        if n == 0:
            return
        total = self.n + n
        gap = mean - self._mean
        self._mean = self._mean + gap * (n / total)
        self._scatter = self._scatter + scatter + np.outer(gap, gap) * (self.n * n / total)
        self.n = total

    @property
    def mean(self) -> np.ndarray:
        """(dim,). Raises ValueError before the first feature."""
        if self.n < 1:
            raise ValueError("the mean needs at least 1 feature vector; there is none")
        return self._mean.copy()

    @property
    def cov(self) -> np.ndarray:
        """(dim, dim), divided by N - 1. Raises ValueError below two features."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors; got {self.n}")
        return self._scatter / (self.n - 1)


def moments(features: np.ndarray | Tensor) -> Moments:
    """The moments of (N, dim) features."""
    result = Moments(features.shape[-1] if features.ndim else 0)
    result.add(features)
    return result


def mixture(parts: Sequence[Moments], weights: Sequence[float], n: int) -> Moments:
    """The moments of n features of which parts with these moments have these shares; weights add up to 1. With the
    parts' own shares of their features they are the moments of all of them.
    """
    mixed = Moments(parts[0].dim)
    for part, weight in zip(parts, weights, strict=True):
        mixed._merge(weight * n, part._mean, part._scatter * (weight * n / part.n))
    return mixed
