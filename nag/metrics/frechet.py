"""The Fréchet distance between two Gaussians, and how much each sample moves it.

D = |mu - mu_r|^2 + tr S + tr S_r - 2 tr (S_r^(1/2) S S_r^(1/2))^(1/2)        (Dowson and Landau 1982, eq. 4)
With F of full column rank and F F^T = S_r, the last trace is the sum of the roots of the eigenvalues of F^T S F: a
symmetric problem of the size of the reference's support, right for singular covariances and without complex parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nag.metrics.moments import ROWS, check_features, float64, moments

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def frechet_distance(
    mu1: np.ndarray | Tensor, cov1: np.ndarray | Tensor, mu2: np.ndarray | Tensor, cov2: np.ndarray | Tensor
) -> float:
    """The squared 2-Wasserstein distance between N(mu1, cov1) and N(mu2, cov2), which is what FID reports.

    mu: (d,), cov: (d, d), arrays or tensors. Raises ValueError for shapes that do not fit, values that are not finite
    and matrices that are no covariance.
    """
    return Reference(mu2, cov2).distance(mu1, cov1)


def influence(
    features: np.ndarray | Tensor, mu_r: np.ndarray | Tensor, cov_r: np.ndarray | Tensor
) -> tuple[float, np.ndarray]:
    """The distance of (N, d) features from N(mu_r, cov_r), and the (N,) float64 influence of each row on it."""
    return Reference(mu_r, cov_r).influence(features)


class Reference:
    """A Gaussian that others are compared with; its factor is computed once. `rank`: dimension of its support."""

    def __init__(self, mu: np.ndarray | Tensor, cov: np.ndarray | Tensor) -> None:
        import numpy as np

        self.mu, self.cov = _gaussian(mu, cov)
        w, U = np.linalg.eigh(self.cov)
        if w[0] < -1e-6 * max(w[-1], 0.0):
            raise ValueError(f"not a covariance: it has the eigenvalue {w[0]:.3g}, its largest is {w[-1]:.3g}")
        support = w > _floor(w)
        self.F = U[:, support] * np.sqrt(w[support])  # (d, rank)
        self.rank = int(support.sum())

    def distance(self, mu: np.ndarray | Tensor, cov: np.ndarray | Tensor) -> float:
        """D of N(mu, cov) from this reference."""
        import numpy as np

        mu, S = _gaussian(mu, cov)
        if mu.shape != self.mu.shape:
            raise ValueError(f"the two Gaussians differ in dimension: {len(mu)} and {len(self.mu)}")
        return self._distance(mu, S, np.linalg.eigvalsh(self._middle(S)))

    def influence(self, features: np.ndarray | Tensor) -> tuple[float, np.ndarray]:
        """D and, for each row x_i with z_i = x_i - mu, the derivative of D towards x_i:

        IF_i = 2 z_i . (mu - mu_r) + z_i^T M z_i - tr(M S),   M = dD/dS = I - F (F^T S F)^(-1/2) F^T.

        F^T S F is singular where the samples are flat on the support (always below rank + 1 samples); its
        pseudo-inverse is then right for D at these samples, while the interval made from IF is not: see FID.
        """
        import numpy as np

        check_features(features)
        if features.shape[1] != len(self.mu):
            raise ValueError(f"features must be (N, {len(self.mu)}); got {tuple(features.shape)}")
        seen = moments(features)
        mu, S = seen.mean, seen.cov
        lam, Q = np.linalg.eigh(self._middle(S))
        keep = lam > _floor(lam)
        FQ = self.F @ (Q[:, keep] * lam[keep] ** -0.25)
        M = np.eye(len(mu)) - FQ @ FQ.T
        IF = np.empty(len(features))
        for start in range(0, len(features), ROWS):
            z = float64(features[start : start + ROWS]) - mu
            IF[start : start + ROWS] = z @ (2 * (mu - self.mu)) + np.einsum("nd,nd->n", z @ M, z)
        return self._distance(mu, S, lam), IF - np.einsum("ij,ji->", M, S)

    def _middle(self, S: np.ndarray) -> np.ndarray:
        middle = self.F.T @ S @ self.F
        return (middle + middle.T) / 2

    def _distance(self, mu: np.ndarray, S: np.ndarray, lam: np.ndarray) -> float:
        gap = mu - self.mu
        roots = lam.clip(min=0) ** 0.5
        return max(0.0, float(gap @ gap + S.trace() + self.cov.trace() - 2 * roots.sum()))


def _floor(eigenvalues: np.ndarray) -> float:
    """Below this an eigenvalue is rounding: the rule of numpy's matrix_rank."""
    import numpy as np

    return float(eigenvalues.max(initial=0.0)) * len(eigenvalues) * float(np.finfo(np.float64).eps)


def _gaussian(mu: np.ndarray | Tensor, cov: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    m, S = float64(mu), float64(cov)
    if m.ndim != 1 or m.size == 0 or S.shape != (len(m), len(m)):
        raise ValueError(f"a Gaussian needs mu (d,) and cov (d, d), d at least 1; got {m.shape} and {S.shape}")
    if not (np.isfinite(m).all() and np.isfinite(S).all()):
        raise ValueError("mu or cov holds a value that is not finite")
    if not np.allclose(S, S.T, rtol=0, atol=1e-5 * float(np.abs(S).max())):
        raise ValueError("not a covariance: the matrix is not symmetric")
    return m, (S + S.T) / 2
