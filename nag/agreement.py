"""How far metrics agree on the order of cells: Spearman's rank correlations, with bootstrap intervals over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LEAST = 3  # cells for a correlation
LEAST_INTERVAL = 5  # cells for an interval
RESAMPLES, RANKED = 1000, 2_000_000  # of the bootstrap; fewer resamples, at least 100, where they draw more cells
AT_ONCE = 500_000  # values ranked at once


class Agreement(NamedTuple):
    """(M, M) each, symmetric; NaN where a metric is equal in all cells, and without enough cells."""

    rho: np.ndarray
    low: np.ndarray
    high: np.ndarray


def agreement(values: np.ndarray) -> Agreement:
    """The rank correlations of M metrics over N cells, values (N, M), finite, with 95 % percentile intervals.

    Values (T, N, M) are of the same N settings in each of T trainings: then correlations are taken within each
    training, so that it does not matter how good a training is, and their mean is given.
    Cells (settings, the same in every training) are drawn with replacement, by fixed numbers (nag/noise.py): equal
    values give equal intervals. They are for cells like these; cells of one network share its training and are treated
    as independent. With fewer than ten cells they are rough. Raises ValueError for another shape or values that are not
    finite.
    """
    import numpy as np

    from nag import noise

    x = np.asarray(values, dtype=np.float64)
    if x.ndim not in (2, 3) or not np.isfinite(x).all():
        raise ValueError(f"agreement needs finite values (cells, metrics) or those of each training; got {x.shape}")
    x = x[None] if x.ndim == 2 else x
    _, cells, metrics = x.shape
    nothing = np.full((metrics, metrics), np.nan)
    if cells < LEAST:
        return Agreement(nothing, nothing, nothing)
    rho = spearman(x).mean(axis=0)
    if cells < LEAST_INTERVAL:
        return Agreement(rho, nothing, nothing)
    resamples = max(100, min(RESAMPLES, RANKED // cells))
    drawn = (noise.uniform(0, range(resamples), 0, (cells,), noise.BOOTSTRAP) * cells).astype(np.int64)
    at_once = max(1, AT_ONCE // x.size)
    parts = [spearman(x[:, drawn[i : i + at_once]]).mean(axis=0) for i in range(0, resamples, at_once)]
    every = np.concatenate(parts)
    low, high = (np.full_like(rho, np.nan) for _ in range(2))
    enough = np.isfinite(every).mean(axis=0) >= 0.9  # a resample may hold equal cells alone
    low[enough], high[enough] = np.nanquantile(every[:, enough], [0.025, 0.975], axis=0)
    return Agreement(rho, low, high)


def spearman(x: np.ndarray) -> np.ndarray:
    """(..., M, M) correlations of the ranks of the columns of x (..., N, M), equal values with their mean rank; NaN for
    a column of equal values.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(x, axis=-2)
    ranks -= ranks.mean(axis=-2, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=-2))
    length[length == 0] = np.nan
    return (np.swapaxes(ranks, -1, -2) @ ranks / (length[..., :, None] * length[..., None, :])).clip(-1, 1)
