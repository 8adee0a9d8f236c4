"""The Fréchet distance between two Gaussians, and how much each sample moves it.

D = |mu - mu_r|^2 + tr S + tr S_r - 2 tr (S_r^(1/2) S S_r^(1/2))^(1/2)        (Dowson and Landau 1982, eq. 4)
With F of full column rank and F F^T = S_r, the last trace is the sum of the square roots of the eigenvalues of
F^T S F: a symmetric problem of the size of the reference's support, which is exact for singular covariances and has no
complex parts. F is the Cholesky factor if S_r clearly has full rank, else it comes from the eigenvectors. Everything is
computed in float64, on the device of the reference's tensors, or on the CPU for arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nag.metrics.moments import Moments, check_features, moments

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

ROWS = 1024  # of features, in float64 at once
SURE = 1e3  # a Cholesky pivot this many times above rounding is not rounding
NOISE = 3.0  # an eigenvalue this many times the size of the most negative one is not rounding


def frechet_distance(
    mu1: np.ndarray | Tensor, cov1: np.ndarray | Tensor, mu2: np.ndarray | Tensor, cov2: np.ndarray | Tensor
) -> float:
    """The squared 2-Wasserstein distance between N(mu1, cov1) and N(mu2, cov2), which is what FID reports.

    mu: (d,), cov: (d, d), arrays or tensors. Raises ValueError for shapes that do not fit, values that are not finite
    and matrices that are not covariances.
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
        import torch

        device = next((m.device for m in (cov, mu) if isinstance(m, torch.Tensor)), None)
        self.mu, S_r = _gaussian(mu, cov, device)
        self.F, self.trace = _factor(S_r), float(S_r.trace())  # (d, rank)
        self.rank = self.F.shape[1]

    def distance(self, mu: np.ndarray | Tensor, cov: np.ndarray | Tensor) -> float:
        """D of N(mu, cov) from this reference."""
        import torch

        mu, S = _gaussian(mu, cov, self.mu.device)
        if mu.shape != self.mu.shape:
            raise ValueError(f"the two Gaussians differ in dimension: {len(mu)} and {len(self.mu)}")
        return self._distance(mu, S, torch.linalg.eigvalsh(self._middle(S)))

    def influence(self, features: np.ndarray | Tensor, seen: Moments | None = None) -> tuple[float, np.ndarray]:
        """D and, for each row x_i with z_i = x_i - mu, the derivative of D towards x_i:

        IF_i = 2 z_i . (mu - mu_r) + z_i^T M z_i - tr(M S),   M = dD/dS = I - F (F^T S F)^(-1/2) F^T.

        F^T S F is singular if the samples do not span the support (always below rank + 1 samples). Its pseudo-inverse
        is then right for D at these samples, but the interval from IF is not: see FID.
        `seen`: the features' moments, if known.
        """
        import numpy as np
        import torch

        check_features(features)
        if features.shape[1] != len(self.mu):
            raise ValueError(f"features must be (N, {len(self.mu)}); got {tuple(features.shape)}")
        seen = seen or moments(features)
        mu, S = _gaussian(seen.mean, seen.cov, self.mu.device)
        lam, Q = torch.linalg.eigh(self._middle(S))
        keep = lam > _floor(lam)
        FQ = self.F @ (Q[:, keep] * lam[keep] ** -0.25)
        M = torch.eye(len(mu), dtype=mu.dtype, device=mu.device) - FQ @ FQ.T
        gap = 2 * (mu - self.mu)
        IF = np.empty(len(features))
        for start in range(0, len(features), ROWS):
            z = _tensor(features[start : start + ROWS], mu.device) - mu
            IF[start : start + ROWS] = (z @ gap + torch.linalg.vecdot(z @ M, z)).cpu().numpy()
        return self._distance(mu, S, lam), IF - float((M * S).sum())

    def _middle(self, S: Tensor) -> Tensor:
        """F^T S F, symmetric except for rounding: eigh and eigvalsh read its lower triangle."""
        return self.F.T @ (S @ self.F)

    def _distance(self, mu: Tensor, S: Tensor, lam: Tensor) -> float:
        """D from the eigenvalues of F^T S F, ascending. Exact ones are not negative, so a negative one shows the size
        of the rounding. A zero that rounding moved has a root of 1e-8, and N < d samples give d - N such zeros.
        """
        gap = mu - self.mu
        roots = lam[lam > NOISE * (-lam[:1]).clamp(min=0)].sqrt().sum()
        return max(0.0, float(gap @ gap + S.trace() + self.trace - 2 * roots))


def _factor(S: Tensor) -> Tensor:
    """F (d, rank) with F F^T = S. Raises ValueError if S has a negative eigenvalue."""
    import torch

    L, failed = torch.linalg.cholesky_ex(S)
    if not failed and float(L.diagonal().square().min()) > SURE * _floor(S.diagonal()):
        return L
    w, U = torch.linalg.eigh(S)
    if w[0] < -1e-6 * max(float(w[-1]), 0.0):
        raise ValueError(f"not a covariance: it has the eigenvalue {w[0]:.3g}, its largest is {w[-1]:.3g}")
    support = w > _floor(w)
    return U[:, support] * w[support].sqrt()


def _floor(eigenvalues: Tensor) -> float:
    """An eigenvalue below this is rounding: the rule of numpy's matrix_rank."""
    import torch

    largest = float(eigenvalues.max()) if len(eigenvalues) else 0.0
    return max(0.0, largest) * len(eigenvalues) * torch.finfo(torch.float64).eps


def _tensor(values: np.ndarray | Tensor, device: torch.device | None) -> Tensor:
    """A float64 tensor on the device. A read-only array is copied, because torch needs a writable one."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        return values.detach().to(device=device, dtype=torch.float64)
    array = np.ascontiguousarray(values, dtype=np.float64)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _gaussian(mu: np.ndarray | Tensor, cov: np.ndarray | Tensor, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Checked copies of both as tensors, the covariance made exactly symmetric."""
    m, S = _tensor(mu, device), _tensor(cov, device)
    if m.ndim != 1 or len(m) == 0 or S.shape != (len(m), len(m)):
        shapes = f"{tuple(m.shape)} and {tuple(S.shape)}"
        raise ValueError(f"a Gaussian needs mu (d,) and cov (d, d), d at least 1; got {shapes}")
    if not (m.isfinite().all() and math.isfinite(_largest(S))):
        raise ValueError("mu or cov holds a value that is not finite")
    transposed = S.T.contiguous()
    if _largest(S - transposed) > 1e-5 * _largest(S):
        raise ValueError("not a covariance: the matrix is not symmetric")
    return m.clone(), (transposed + S) / 2


def _largest(S: Tensor) -> float:
    """The largest absolute value in S, in one pass; NaN if S has one."""
    low, high = S.aminmax()
    return float((-low).maximum(high))
