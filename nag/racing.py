"""Choosing a setting with few samples: which candidates to try, and which of them earn more samples.

A stage of candidates starts with a part of the samples; at each rung, a count of samples, all that are left are
compared with their leader on the same noise, and at most the better half goes on (successive halving, Karnin et al.,
ICML 2013). Ranges are searched coarse to fine: the next stage lies around the best of the last. Measured by
`python -m benchmarks.tuning`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nag import noise
from nag.intervals import Z, samples_for_difference

Place = tuple[int, ...]  # of a candidate: its position on each axis

COARSE = 5  # values of a range in the first stage
SHARES = (8, 4, 2, 1)  # rungs: the full count over these
LEAST = 50  # samples of a rung; with fewer, standard errors are guesses
KEY = 0  # of all projections; stored scores depend on it


@dataclass(frozen=True)
class Axis:
    """The values of one tuned parameter, by position from 0. ordered: an evenly spaced lattice of a range of numbers,
    to be searched coarse to fine; else a list, all of whose values are candidates.
    """

    size: int
    ordered: bool

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an axis needs at least one value, got {self.size}")


def first_places(axes: Sequence[Axis], candidates: int | None = None) -> tuple[Place, ...]:
    """The first stage, ascending: the product of all values of lists and of up to five evenly spread values of ranges,
    both ends among them.

    With `candidates`, at least 2: two thirds of so many, spread evenly over all axes; everything if there is not more.
    Raises ValueError for fewer.
    """
    if candidates is None:
        return tuple(itertools.product(*(_coarse(axis) if axis.ordered else range(axis.size) for axis in axes)))
    if candidates < 2:
        raise ValueError(f"a choice needs at least 2 candidates, got {candidates}")
    if math.prod(axis.size for axis in axes) <= candidates:
        return tuple(itertools.product(*(range(axis.size) for axis in axes)))
    wanted = max(2, math.ceil(2 * candidates / 3))
    places: set[Place] = set()
    for place in _spread(axes):
        places.add(place)
        if len(places) == wanted:
            break
    return tuple(sorted(places))


def next_places(
    axes: Sequence[Axis], tried: Collection[Place], best: Place, candidates: int | None = None
) -> tuple[Place, ...]:
    """The new places of the next stage, ascending; () when the search has ended. best: the leader of all tried.

    Halfway between the best and the nearest tried place on either side, along each range with all else fixed, until
    neighbours are adjacent; a side on which that line has none takes the nearest value tried elsewhere. With
    `candidates`: the untried places nearest to the best (each axis has length 1), ties by place, up to so many in all.
    """
    done = set(tried)
    if candidates is not None:
        left = max(0, candidates - len(done))
        if not left:
            return ()
        return tuple(sorted(itertools.islice(_by_distance(axes, done, best), left)))
    new = set()
    for i, axis in enumerate(axes):
        for side in (-1, 1) if axis.ordered else ():
            if (position := _halfway(done, best, i, side)) is not None:
                new.add((*best[:i], position, *best[i + 1 :]))
    return tuple(sorted(new))


def rungs(count: int, block: int) -> tuple[int, ...]:
    """Increasing counts of samples at which candidates are compared: about an eighth, a quarter and a half of `count`,
    rounded up to blocks, none below 50 samples, and `count` itself. Raises ValueError below 1.
    """
    if count < 1 or block < 1:
        raise ValueError(f"rungs need a count and a block of at least 1, got {count} and {block}")
    blocks = (math.ceil(max(count / share, LEAST) / block) * block for share in SHARES)
    return (*sorted({n for n in blocks if n < count}), count)


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
) -> Outcome:
    """Who of the candidates goes on to the next rung.

    values[c][s]: of candidate c and training seed s, lower is better, without its bias in N. influences[c][s]: (n,), of
    each sample on it, or None; sample i of all candidates of a training seed starts from the same noise.

    The leader has the lowest mean over training seeds (the first of equals). Another one goes on while it could be
    better than the leader by more than `margin` (in the metric's unit, at least 0), and is in the better half, rounded
    up, or after the `first` rung, where few samples tell least, in the better two thirds; after the `last` rung none
    does. The standard error of a difference is sqrt(sum_s var(IF_c - IF_l) / n_s) / S:
    it covers other samples of the same networks, which is what a choice for these networks needs.

    Without influences the means alone decide, and at least two go on until the last rung. Give none for a score that
    only stands for the one in question, such as a distance on a projection: how far the two differ is not in its
    influences. Races of nine that trusted them chose as well as the true distance in 8 of 16 cases, without them in 16.

    Raises ValueError for no candidates, unequal numbers of seeds or samples, values that are not finite, or a margin
    below 0.
    """
    means = _means(values, influences, margin)
    order = sorted(range(len(means)), key=lambda c: (means[c], c))
    leader = order[0]
    differences = tuple(
        None if c == leader else _difference(means[c] - means[leader], influences[c], influences[leader])
        for c in range(len(means))
    )
    going_on = [leader]
    most = _most(len(order), first)
    for rank, c in enumerate(order[1:] if not last else (), start=1):
        difference = differences[c]
        low = None if difference is None else difference[1]
        if (low is None and rank < max(most, 2)) or (low is not None and rank < most and low < -margin):
            going_on.append(c)
    return Outcome(leader, differences, tuple(sorted(going_on)))


def cost_at_most(axes: Sequence[Axis], counts: Sequence[int], candidates: int | None = None) -> tuple[int, int]:
    """How many places a search tries at most, and how many samples they take in each training, if as many go on at
    every rung as may. counts: `rungs`. Along several ranges without `candidates` it may be a tenth more, as the best
    moves from line to line.
    """
    new = [len(first_places(axes, candidates))]
    if candidates is not None:
        new.append(min(candidates, math.prod(axis.size for axis in axes)) - new[0])
    else:
        gaps = [math.ceil((axis.size - 1) / (COARSE - 1)) for axis in axes if axis.ordered]
        halvings = range(max(gaps, default=1).bit_length())
        new += [sum(2 for gap in gaps if gap > 2**halving) for halving in halvings]
    stages = [number + (stage > 0) for stage, number in enumerate(new) if number]  # the best of the last takes part
    return sum(new), sum(_stage_cost(number, counts) for number in stages)


def _stage_cost(left: int, counts: Sequence[int]) -> int:
    samples = 0
    for before, count in itertools.pairwise((0, *counts)):
        samples += left * (count - before)
        left = max(2, _most(left, before == 0))
    return samples


def _most(candidates: int, first: bool) -> int:
    """How many of these candidates go on at most."""
    return math.ceil(candidates * (2 / 3 if first else 1 / 2))


def projection(dimension: int, to: int) -> np.ndarray:
    """(dimension, to) float64 of orthonormal columns in random directions, the same for ever up to rounding: the first
    columns of a wider one. Raises ValueError unless 1 <= to <= dimension.
    """
    if not 1 <= to <= dimension:
        raise ValueError(f"a projection of {dimension} dimensions is to 1 to {dimension}, not {to}")
    normal = noise.normal(KEY, np.arange(to), 0, (dimension,), noise.DIRECTIONS).astype(np.float64)
    Q, R = np.linalg.qr(normal.T)
    return Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)


def dimension_for(n: int) -> int:
    """The largest dimension in which n samples suffice for a difference of extrapolated Fréchet distances
    (`samples_for_difference`, and halves above the dimension); 0 below 4 samples.
    """
    d = min(int((n / 0.3) ** (2 / 3)) + 1, n // 2)
    while d > 0 and (samples_for_difference(d) > n or n // 2 <= d):
        d -= 1
    return max(d, 0)


def _coarse(axis: Axis) -> list[int]:
    """Up to five positions, evenly spread, with both ends."""
    many = min(COARSE, axis.size)
    return [round(i * (axis.size - 1) / (many - 1)) for i in range(many)] if many > 1 else [0]


def _spread(axes: Sequence[Axis]) -> Iterator[Place]:
    """Places spread evenly over all axes, without end: the additive recurrence of Roberts ("The unreasonable
    effectiveness of quasirandom sequences", 2018), with steps g^-1, g^-2, ... where g^(d+1) = g + 1.
    """
    d, g = len(axes), 2.0
    for _ in range(100):
        g = (1 + g) ** (1 / (d + 1))
    for i in itertools.count(1):
        yield tuple(int((0.5 + i * g ** -(j + 1)) % 1 * axis.size) for j, axis in enumerate(axes))


def _by_distance(axes: Sequence[Axis], done: set[Place], best: Place) -> Iterator[Place]:
    """Untried places by distance from the best, then by place: a search outwards, which needs no list of all places."""

    def entry(place: Place) -> tuple[float, Place]:
        parts = zip(place, best, axes, strict=True)
        return round(sum(((a - b) / max(1, axis.size - 1)) ** 2 for a, b, axis in parts), 12), place

    heap, seen = [entry(best)], {best}
    while heap:
        place = heapq.heappop(heap)[1]
        if place not in done:
            yield place
        for i, axis in enumerate(axes):
            for position in (place[i] - 1, place[i] + 1):
                new = (*place[:i], position, *place[i + 1 :])
                if 0 <= position < axis.size and new not in seen:
                    seen.add(new)
                    heapq.heappush(heap, entry(new))


def _halfway(done: set[Place], best: Place, i: int, side: int) -> int | None:
    """The position on axis i to try next on this side (-1 or 1) of the best; None if there is nothing between."""
    beyond = [place for place in done if (place[i] - best[i]) * side > 0]
    line = [place[i] for place in beyond if place[:i] + place[i + 1 :] == best[:i] + best[i + 1 :]]
    positions = line or [place[i] for place in beyond]
    if not positions:
        return None
    nearest = min(positions, key=lambda position: abs(position - best[i]))
    if abs(nearest - best[i]) > 1:
        return (nearest + best[i]) // 2
    return None if line else nearest


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
