"""The weights of a guided prediction: evaluations of networks, weights, channels, levels. No tensors here."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from nag.guidance.schedule import CONSTANT, Weighting
from nag.guidance.terms import EVERYWHERE, UNALTERED, Altered, Guidance, Interval, Term
from nag.interpolants import Interpolant

PURE_NOISE = 1e-6  # below this alpha, never divide by alpha


class Evaluation(NamedTuple):
    """One branch: a network (0 is the guided one, others are references), under its null conditions or not, altered."""

    network: int
    null_noise: bool
    null_class: bool
    altered: Altered = UNALTERED


D = Evaluation(0, False, False)  # the conditional prediction


class Part(NamedTuple):
    """A term with the number of its network. `inside`: it acts within every branch of the parts that are not inside."""

    branch: Evaluation
    weight: float
    channels: int | None = None
    interval: Interval = EVERYWHERE
    inside: bool = False
    schedule: Weighting = CONSTANT

    def factor(self, t: float, to: float | None, interpolant: Interpolant) -> float:
        """Of the weight, in a call at level t of a step to level `to`. Where it is 0 nothing is evaluated."""
        return self.schedule(t, to, interpolant) if t in self.interval else 0.0


class Combined(NamedTuple):
    """A guidance with its own `combine`, and the branches of its terms."""

    guidance: Guidance
    branches: tuple[Evaluation, ...]
    interval: Interval


class Stretch(NamedTuple):
    """Channels first to last - 1, and the branches that are summed on them."""

    first: int
    last: int
    weights: tuple[tuple[Evaluation, float], ...]


def part(term: Term, network: int, inside: bool = False) -> Part:
    return Part(_branch(term, network), term.weight, term.channels, term.interval, inside, term.schedule)


def combined(guidance: Guidance, networks: Iterable[int]) -> Combined:
    """networks: the number of each term's network. All of its terms act on all channels, in one interval."""
    terms = guidance.terms()
    chosen = tuple(_branch(term, network) for term, network in zip(terms, networks, strict=True))
    return Combined(guidance, chosen, terms[0].interval)


def _branch(term: Term, network: int) -> Evaluation:
    return plain(Evaluation(network, term.null_noise, term.null_class, term.altered))


def plain(branch: Evaluation) -> Evaluation:
    """The branch without alterations that change nothing: a null condition has no level or class to alter."""
    altered = branch.altered
    if branch.null_noise:
        altered = altered._replace(shift=0.0, embedding_noise=(0.0, 0.0))
    if branch.null_class:
        altered = altered._replace(other_class=False)
    return branch._replace(altered=altered)


def without_cancelled(parts: list[Part]) -> tuple[Part, ...]:
    """The parts in a fixed order, without those that differ in weight only and sum to 0."""
    alike: dict[Part, list[Part]] = defaultdict(list)
    for each in parts:
        alike[each._replace(weight=0.0)].append(each)
    left = [each for group in alike.values() if math.fsum(p.weight for p in group) != 0 for each in group]
    return tuple(sorted(left, key=_order))


def _order(part: Part) -> Any:
    interval = part.interval.low, part.interval.high
    return part.branch, part.channels or math.inf, *interval, part.inside, part.weight, repr(part.schedule)


def stretches(parts: Iterable[Part], channels: int) -> tuple[Stretch, ...]:
    """The weights of D and `parts` on each range of channels."""
    parts = tuple(parts)
    ends = sorted({channels, *(p.channels for p in parts if p.channels is not None)})
    return tuple(
        Stretch(first, last, _weights([p for p in parts if p.channels is None or p.channels > first]))
        for first, last in pairwise((0, *ends))
    )


def evaluations(plan: Iterable[Stretch], acting: Iterable[Combined] = (), needs_d: bool = False) -> list[Evaluation]:
    """What is evaluated for `plan` and guidance that combines, each once. needs_d: D too, whatever its weight."""
    wanted = {branch for stretch in plan for branch, _ in stretch.weights}
    wanted |= {branch for each in acting for branch in each.branches}
    evaluated = {branch for branch in wanted if not branch.altered.previous}
    return sorted(evaluated | ({D} if needs_d or evaluated != wanted else set()))


def needs_d(parts: Iterable[Part], shaping: Iterable[Guidance]) -> bool:
    """Whether D is evaluated at every level, whatever its weight: something compares with it, or remembers it."""
    return any(part.branch.altered.previous for part in parts) or any(g.output is not None for g in shaping)


def single(t: float) -> float:
    """t rounded to float32, as a level is in a call."""
    return float(struct.unpack("f", struct.pack("f", t))[0])


def has_slope(t: float, interpolant: Interpolant) -> bool:
    """Whether an estimator's gradient acts at t: the state holds data there, and t is not the null noise condition."""
    return t >= 0 and interpolant.alpha(t) > PURE_NOISE


def _weights(parts: list[Part]) -> tuple[tuple[Evaluation, float], ...]:
    """D + the outer parts, where D + the inner parts replaces every branch. Weights of 0 are left out."""
    outer, inner = (_sums([(p.branch, p.weight) for p in parts if p.inside is inside]) for inside in (False, True))
    product = [
        (
            plain(Evaluation(a.network, a.null_noise or b.null_noise, a.null_class or b.null_class, a.altered)),
            outer[a] * inner[b],
        )
        for a in outer
        for b in inner
    ]
    return tuple((branch, weight) for branch, weight in sorted(_total(product).items()) if weight != 0)


def _sums(pairs: list[tuple[Evaluation, float]]) -> dict[Evaluation, float]:
    return _total([(D, 1.0), *pairs])


def _total(pairs: list[tuple[Evaluation, float]]) -> dict[Evaluation, float]:
    """The total weight of each branch, summed exactly, so that the order does not matter."""
    weights: dict[Evaluation, list[float]] = defaultdict(list)
    for branch, weight in pairs:
        weights[branch].append(weight)
    return {branch: math.fsum(values) for branch, values in weights.items()}
