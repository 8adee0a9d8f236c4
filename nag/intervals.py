"""Intervals of 95 %: from the influence of each sample, paired by index, or over training seeds.

An influence interval covers what other samples of the *same networks* would give. It says nothing of other trainings;
for that there is the t interval over training seeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Z = 1.96  # standard errors in half a 95 % interval


def influence_interval(value: float, influence: np.ndarray) -> tuple[float, float]:
    """(low, high) of a value with the (N,) influences of its samples: value +- 1.96 std(IF) / sqrt(N).

    Raises ValueError below two samples or where an influence is not finite.
    """
    import numpy as np

    IF = np.asarray(influence, dtype=np.float64)
    if IF.ndim != 1 or len(IF) < 2:
        raise ValueError(f"an influence interval needs (N,) influences, N at least 2; got {IF.shape}")
    if not np.isfinite(IF).all():
        raise ValueError(f"influence {int(np.isfinite(IF).argmin())} of {len(IF)} is not finite")
    half = Z * float(IF.std(ddof=1)) / len(IF) ** 0.5
    return value - half, value + half


def paired_difference(
    value_a: float, influence_a: np.ndarray, value_b: float, influence_b: np.ndarray
) -> tuple[float, float, float]:
    """(a - b, low, high) of two cells whose sample i starts from the same noise and label.

    Give extrapolated values for the headline and D(N) for the difference at N; the influences are the same. Cells of
    several sample seeds: the mean of the values and the influences one after another, in the same order on both sides.
    Raises ValueError where the two have different numbers of samples.
    """
    import numpy as np

    a, b = np.asarray(influence_a, dtype=np.float64), np.asarray(influence_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs equal numbers of samples; got {a.shape} and {b.shape}")
    low, high = influence_interval(value_a - value_b, a - b)
    return value_a - value_b, low, high


def samples_for_difference(dimension: int) -> int:
    """The fewest samples for nominal coverage of a paired difference of extrapolated Fréchet distances: 0.3 d^1.5.

    What the extrapolation leaves of the bias grows, in standard errors, as d^3 / N^2. Up to 11 of these the intervals
    covered 0.91 or more, at 20 0.86, at 41 0.57 (`python -m benchmarks.coverage difference`: dimension 64 to 2,048, one
    covariance shrunk by a tenth). Those that miss are to the disadvantage of the arm with the smaller covariance.
    """
    return math.ceil(0.3 * dimension**1.5)


def share_interval(count: int, n: int) -> tuple[float, float]:
    """(low, high) of a share of n independent samples, `count` of them: Wilson's (1927), also valid near 0 and 1.

    Raises ValueError where the count is not within 0 and n, n at least 1.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"a share needs a count from 0 to n, n at least 1; got {count} of {n}")
    share, weight = count / n, Z**2 / n
    centre = share + weight / 2
    half = (weight * share * (1 - share) + weight**2 / 4) ** 0.5
    return max(0.0, (centre - half) / (1 + weight)), min(1.0, (centre + half) / (1 + weight))


def t_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high) over replicates (training seeds), Student's t with n - 1 degrees; one value has no interval.

    Raises ValueError for no value or one that is not finite.
    """
    import numpy as np
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"a t interval needs one or more finite values; got {list(values)}")
    mean = float(x.mean())
    if len(x) == 1:
        return mean, None, None
    half = float(stdtrit(len(x) - 1, 0.975)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return mean, mean - half, mean + half
