"""Choosing a setting with few samples: which candidates to try, and at which counts of samples they are compared.

Ranges are searched coarse to fine: the next stage lies around the best of the last. `racing.py` compares.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

Place = tuple[int, ...]  # of a candidate: its position on each axis

COARSE = 5  # values of a range in the first stage
SHARES = (8, 4, 2, 1)  # rungs: the full count over these
LEAST = 50  # samples of a rung; with fewer, standard errors are guesses


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
        left = max(2, most_that_go_on(left, before == 0))
    return samples


def most_that_go_on(candidates: int, first: bool) -> int:
    """The better half, rounded up; after the first rung, where few samples tell least, the better two thirds."""
    return math.ceil(candidates * (2 / 3 if first else 1 / 2))


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
