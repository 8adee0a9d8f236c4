"""Choosing a setting with few samples: which of the candidates earn more samples.

A stage of candidates starts with a part of the samples; at each rung, a count of samples, all that are left are
compared with their leader on the same noise, and at most the better half goes on (successive halving, Karnin et al.,
ICML 2013). `search.py` has the candidates and the rungs. Measured by `python -m benchmarks.tuning`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from nag import noise
from nag.intervals import Z, samples_for_difference
from nag.search import most_that_go_on

KEY = 0  # of all projections; stored scores depend on it


@dataclass(frozen=True)
class Outcome:
    """Of one rung. leader, going_on: numbers of candidates; going_on ascends and holds the leader, alone if the race is
    over. differences: (value, low, high) of each candidate from the leader, 95 %, above 0 is worse; low and high are
    None without influences; None for the leader itself.
    """

    leader: int
    differences: tuple[tuple[float, float | None, float | None] | None, ...]
    going_on: tuple[int, ...]


def race(
    values: Sequence[Sequence[float]],
    influences: Sequence[Sequence[np.ndarray | None]],
    margin: float,
    last: bool,
    first: bool = False,
    share: float = 0.0,
    looks: int = 1,
) -> Outcome:
    """Who of the candidates goes on to the next rung.

    values[c][s]: of candidate c and training seed s, lower is better, without its bias in N. influences[c][s]: (n,), of
    each sample on it, or None; sample i of all candidates of a training seed starts from the same noise.

    The leader has the lowest mean over training seeds (the first of equals). Another one goes on while it could be
    better than the leader by more than `margin` (in the metric's unit, at least 0), and is in the better half, rounded
    up, or after the `first` rung, where few samples tell least, in the better two thirds, or the second of all: between
    the last two only evidence decides. After the `last` rung none goes on.

    The standard error of a difference is sqrt(sum_s var(IF_c - IF_l) / n_s) / S: it covers other samples of the same
    networks, which is what a choice for these networks needs. What is asked is what all samples will show. They hold
    those at hand, a `share` of them, so the error is sqrt(1 - share) of that. And the best must survive each of `looks`
    rungs against each leader: the interval that decides is of 95 % for all looks and candidates together (Bonferroni).
    Those in the outcome are each by itself, for other samples.

    Without influences the means alone decide, and at least two go on until the last rung. Give none for a score that
    only stands for the one in question, such as a distance on parts of the directions: how far the two differ is not in
    its influences. Races of nine that trusted them chose as well as the true distance in 8 of 16 cases, without them in
    16.

    Raises ValueError for no candidates, unequal numbers of seeds or samples, values that are not finite, a margin below
    0, a share outside [0, 1], or no looks.
    """
    means = _means(values, influences, margin)
    if not 0 <= share <= 1 or looks < 1:
        raise ValueError(f"a share is from 0 to 1 and there is at least one look; got {share} and {looks}")
    order = sorted(range(len(means)), key=lambda c: (means[c], c))
    leader = order[0]
    differences = tuple(
        None if c == leader else _difference(means[c] - means[leader], influences[c], influences[leader])
        for c in range(len(means))
    )
    going_on = [leader]
    most = max(2, most_that_go_on(len(order), first))
    wider = _simultaneous(looks * (len(order) - 1)) / Z * (1 - share) ** 0.5
    for rank, c in enumerate(order[1:] if not last else (), start=1):
        away, low, _ = differences[c] or (0.0, None, None)
        if rank < most and (low is None or away - wider * (away - low) < -margin):
            going_on.append(c)
    return Outcome(leader, differences, tuple(sorted(going_on)))


def _simultaneous(intervals: int) -> float:
    """Standard errors in half of each of so many intervals that hold together in 95 %."""
    return NormalDist().inv_cdf(1 - 0.025 / max(1, intervals))


def projection(dimension: int, to: int) -> np.ndarray:
    """(dimension, to) float64 of orthonormal columns in random directions, the same for ever up to rounding: the first
    columns of a wider one. Raises ValueError unless 1 <= to <= dimension.
    """
    if not 1 <= to <= dimension:
        raise ValueError(f"a projection of {dimension} dimensions is to 1 to {dimension}, not {to}")
    normal = noise.normal(KEY, np.arange(to), 0, (dimension,), noise.DIRECTIONS).astype(np.float64)
    Q, R = np.linalg.qr(normal.T)
    return Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)


@lru_cache(maxsize=4)
def parts_of_directions(dimension: int, most: int) -> tuple[np.ndarray, ...]:
    """(dimension, k) each, k at most `most`: all columns of the widest `projection`, in as few parts of nearly equal
    size as possible. Raises ValueError unless both are at least 1.

    The distances on all parts add up to the whole distance where no part is correlated with another; a single part
    leaves out most of the directions, and which settings it favours is chance.
    """
    if most < 1:
        raise ValueError(f"a part has at least 1 direction, not {most}")
    return tuple(np.array_split(projection(dimension, dimension), -(-dimension // most), axis=1))


def dimension_for(n: int) -> int:
    """The largest dimension in which n samples suffice for a difference of extrapolated Fréchet distances
    (`samples_for_difference`, and halves above the dimension); 0 below 4 samples.
    """
    d = min(int((n / 0.3) ** (2 / 3)) + 1, n // 2)
    while d > 0 and (samples_for_difference(d) > n or n // 2 <= d):
        d -= 1
    return max(d, 0)


def _means(
    values: Sequence[Sequence[float]], influences: Sequence[Sequence[np.ndarray | None]], margin: float
) -> list[float]:
    """The mean of each candidate over its training seeds, after the checks of `race`."""
    seeds = {len(one) for one in values} | {len(one) for one in influences}
    if not values or len(influences) != len(values) or len(seeds) != 1 or seeds == {0}:
        raise ValueError("a race needs candidates with a value and an influence of each of the same training seeds")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"a margin is a finite number, at least 0; got {margin}")
    means = [math.fsum(one) / len(one) for one in values]
    if not all(math.isfinite(mean) for mean in means):
        raise ValueError(f"a race needs finite values; the means of its candidates are {means}")
    return means


def _difference(
    value: float, candidate: Sequence[np.ndarray | None], leader: Sequence[np.ndarray | None]
) -> tuple[float, float | None, float | None]:
    """With its interval of 95 % if all influences are known."""
    variance = 0.0
    for a, b in zip(candidate, leader, strict=True):
        if a is None or b is None:
            return value, None, None
        if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
            raise ValueError(f"a paired difference needs (n,) influences, n at least 2; got {a.shape} and {b.shape}")
        variance += float(np.var(np.subtract(a, b, dtype=np.float64), ddof=1)) / len(a)
    half = Z * variance**0.5 / len(candidate)
    return value, value - half, value + half
