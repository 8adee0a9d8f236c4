"""Verdicts on a family of comparisons: a test of difference, a test of equivalence, and what they could have seen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

LEVEL = 0.05  # of the whole family
POWER = 0.8  # differences that are found in 8 of 10 cases
Outcome = Literal["better", "worse", "alike", "undecided"]
NODES = 600  # of the integral over the standard error's distribution
SEEDS_AT_MOST = 10**9


@dataclass(frozen=True)
class Evidence:
    """An estimated difference, below 0 is better, with its standard error. df: degrees of freedom of Student's t, None
    for a normal distribution. margin: a difference of at most this size, in its unit, decides nothing.
    """

    difference: float
    se: float
    df: float | None
    margin: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.difference) and 0 <= self.se < math.inf and 0 <= self.margin < math.inf):
            raise ValueError(f"a difference, its standard error and a margin are finite and not negative; got {self}")
        _check_df(self.df)


@dataclass(frozen=True)
class Ruling:
    """low, high: the plain 95 % interval; adjusted: for the family."""

    outcome: Outcome
    p: float
    adjusted_p: float
    low: float
    high: float
    adjusted_low: float
    adjusted_high: float


def rulings(family: Sequence[Evidence], level: float = LEVEL) -> tuple[Ruling, ...]:
    """A ruling on each of m comparisons, in their order, with at most `level` of families that hold a false difference.

    Holm (1979), "A simple sequentially rejective multiple test procedure": the i-th smallest p, two-sided, is held
    against level / (m - i + 1), until one is above it. The adjusted interval leaves out 0 exactly if Holm rejects. For
    those that it does not reject, r of them, its level is level / r. For the others it is level / m, and if that would
    hold 0, the one of its step.

    alike: the adjusted interval lies within the margin, also if it leaves out 0. That is Schuirmann's two one-sided
    tests (1987), each at half of the interval's level. better, worse: Holm rejects. Else undecided.
    Raises ValueError for a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, got {level}")
    m = len(family)
    p = [_p(one) for one in family]
    order = sorted(range(m), key=p.__getitem__)
    rejected = next((i for i, place in enumerate(order) if p[place] > level / (m - i)), m)
    by_place: dict[int, Ruling] = {}
    adjusted_p = 0.0
    for i, place in enumerate(order):
        adjusted_p = max(adjusted_p, min(1.0, (m - i) * p[place]))
        own_level = level / (m - min(i, rejected)) if p[place] > level / m else level / m
        by_place[place] = _ruling(family[place], i < rejected, level, own_level, p[place], adjusted_p)
    return tuple(by_place[place] for place in range(m))


def _ruling(one: Evidence, rejected: bool, level: float, adjusted_level: float, p: float, adjusted_p: float) -> Ruling:
    adjusted_low, adjusted_high = _interval(one, adjusted_level)
    outcome: Outcome = "undecided"
    if -one.margin <= adjusted_low and adjusted_high <= one.margin:
        outcome = "alike"
    elif rejected:
        outcome = "better" if one.difference < 0 else "worse"
    return Ruling(outcome, p, adjusted_p, *_interval(one, level), adjusted_low, adjusted_high)


def _p(one: Evidence) -> float:
    """Two-sided; without any spread a difference is certain."""
    from scipy.special import ndtr, stdtr

    if one.se == 0:
        return 0.0 if one.difference else 1.0
    t = -abs(one.difference) / one.se
    return min(1.0, 2 * float(ndtr(t) if one.df is None else stdtr(one.df, t)))


def _interval(one: Evidence, level: float) -> tuple[float, float]:
    from scipy.special import ndtri, stdtrit

    half = one.se * float(ndtri(1 - level / 2) if one.df is None else stdtrit(one.df, 1 - level / 2))
    return one.difference - half, one.difference + half


def detectable(se: float, df: float | None, comparisons: int, power: float = POWER) -> float:
    """The smallest true difference that is found in a share `power` of cases, in the unit of its standard error `se`.

    Found: by a two-sided test at the family's level over the number of comparisons, which is Holm's first step; later
    steps find more. df as in Evidence; with it, by the noncentral t distribution. Raises ValueError for a negative or
    infinite se, df below 1, no comparison, or a power that is not above the level and below 1.
    """
    if not 0 <= se < math.inf:
        raise ValueError(f"a standard error is finite and not negative, got {se}")
    return se * _shift(df, comparisons, power)


def seeds_needed(spread: float, margin: float, comparisons: int, power: float = POWER) -> int:
    """How many training seeds find a true difference of `margin` in a share `power` of cases; at least 2.

    spread: the standard deviation over seeds of the paired differences, in the unit of the margin. The test is that of
    `detectable`, with n - 1 degrees of freedom. Raises ValueError as it does, and for a margin
    that is not above 0.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"a margin is finite and above 0, got {margin}")

    def enough(n: int) -> bool:
        return detectable(spread / n**0.5, n - 1, comparisons, power) <= margin

    low = max(1, math.ceil((spread / margin * _shift(None, comparisons, power)) ** 2) - 1)  # not even if S were known
    step, high = 1, min(low + 1, SEEDS_AT_MOST)
    while high < SEEDS_AT_MOST and not enough(high):
        low, step = high, 2 * step
        high = min(high + step, SEEDS_AT_MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@functools.cache
def _shift(df: float | None, comparisons: int, power: float) -> float:
    """The true difference, in standard errors, that is found with this power."""
    _check_df(df)
    if comparisons < 1 or not LEVEL < power < 1:
        raise ValueError(
            f"power is for one or more comparisons and between {LEVEL} and 1, got {comparisons} and {power}"
        )
    critical = _root(lambda t: LEVEL / comparisons / 2 - _beyond(t, df, 0.0))
    return _root(lambda shift: _beyond(critical, df, shift) - power)


def _root(f: Callable[[float], float]) -> float:
    """Where f, which rises from below 0 at 0, is 0, to ten digits: false position (Dowell and Jarratt, 1971)."""
    a, b, f_a, f_b = 0.0, 1.0, f(0.0), f(1.0)
    while f_b < 0:
        a, b, f_a = b, 2 * b, f_b
        f_b = f(b)
    while True:
        x = b - f_b * (b - a) / (f_b - f_a)
        f_x = f(x)
        if f_x == 0 or abs(x - b) <= 1e-10 * x:
            return x
        if (f_x < 0) != (f_b < 0):
            a, f_a = b, f_b
        else:
            f_a /= 2
        b, f_b = x, f_x


def _beyond(t: float, df: float | None, shift: float) -> float:
    """P(T > t) of a noncentral t: T = (Z + shift) / S with Z normal and df S^2 chi-squared. None: S is 1.

    By Simpson's rule over S, since scipy takes longer to import than `plan` takes.
    """
    normal = NormalDist()
    if df is None:
        return normal.cdf(shift - t)
    nodes, weights = _spread(df)
    return math.fsum(w * normal.cdf(shift - t * s) for s, w in zip(nodes, weights, strict=True))


@functools.cache
def _spread(df: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes s and weights of Simpson's rule for the density of S, chi over the root of df; weights sum to 1."""
    half = 8 / (2 * df) ** 0.5
    low, high = max(0.0, 1 - half), 1 + half
    nodes, weights = [], []
    for i in range(NODES + 1):
        u = i / NODES  # s = low + (high - low) u^2: close nodes near 0, where a large t needs them
        s = low + (high - low) * u * u
        density = math.exp((df - 1) * math.log(s) - df * (s * s - 1) / 2) if s else 0.0
        nodes.append(s)
        weights.append((1 if i in (0, NODES) else 4 if i % 2 else 2) * density * u)
    whole = math.fsum(weights)
    return tuple(nodes), tuple(w / whole for w in weights)


def _check_df(df: float | None) -> None:
    if df is not None and not 1 <= df < math.inf:
        raise ValueError(f"degrees of freedom are at least 1, got {df}")
