"""The price of guidance: network function evaluations (NFE) of one call of a guided field. No networks, no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nag.guidance.mixing import (
    Combined,
    D,
    Part,
    combined,
    evaluations,
    has_slope,
    needs_d,
    part,
    single,
    stretches,
    without_cancelled,
)
from nag.guidance.run_state import steps
from nag.guidance.terms import Guidance, Interval, Term, shapes
from nag.interpolants import Interpolant
from nag.registry import completed


@dataclass(frozen=True)
class Price:
    """What `GuidedField` evaluates: the network, its references and its estimators, for one sample.

    parts, combined, shaping: as in GuidedField. slopes: where each estimator's gradient acts. channels: of a state.
    variance: whether the guided network returns a variance too, for which D is evaluated where the sum has other
    branches of it alone.
    """

    parts: tuple[Part, ...]
    slopes: tuple[Interval, ...]
    interpolant: Interpolant
    channels: int
    variance: bool
    combined: tuple[Combined, ...] = ()
    shaping: tuple[Guidance, ...] = ()
    _known: dict[tuple[float, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, t: float, to: float | None = None) -> int:
        """Evaluations of one call at level t, of a step to level `to` if that is known. t is float32 there, so it
        is rounded first.
        """
        t = single(t)
        if any(each.silent(t) for each in self.shaping):
            return 0
        # Where the step is not known, a weight that depends on it is taken as not 0.
        known = (to is not None or not each.schedule.of_step for each in self.parts)
        factors = (
            p.factor(t, to, self.interpolant) if sure else float(t in p.interval)
            for p, sure in zip(self.parts, known, strict=True)
        )
        slopes = (t in interval and has_slope(t, self.interpolant) for interval in self.slopes)
        acting = (*factors, *slopes, *(t in each.interval for each in self.combined))
        if acting not in self._known:
            self._known[acting] = self._evaluated(acting)
        return self._known[acting]

    def _evaluated(self, acting: tuple[float, ...]) -> int:
        some = [p._replace(weight=p.weight * factor) for p, factor in zip(self.parts, acting, strict=False) if factor]
        first = len(self.parts) + len(self.slopes)
        each = [one for one, acts in zip(self.combined, acting[first:], strict=True) if acts]
        wanted = evaluations(stretches(some, self.channels), each, needs_d(self.parts, self.shaping))
        of_variance = self.variance and D not in wanted and any(branch.network == 0 for branch in wanted)
        return len(wanted) + of_variance + int(sum(acting[len(self.parts) : first]))

    def total(self, levels: Iterable[float]) -> int:
        """Evaluations of calls at these levels."""
        levels = list(levels)
        to = steps(levels)
        return sum(self.at(t, to[single(t)]) for t in levels)

    @property
    def most(self) -> int:
        """Evaluations of a call at the dearest level."""
        intervals = [*(part.interval for part in self.parts), *(each.interval for each in self.combined), *self.slopes]
        ends = sorted({0.0, 1.0, *(end for one in intervals for end in (one.low, one.high))})
        between = [(low + high) / 2 for low, high in pairwise(ends)]
        return max(map(self.at, (*ends, *between)))


def price(
    network: Any,
    guidance: Iterable[Guidance],
    references: Mapping[str, Any],
    interpolant: Interpolant,
    *,
    compose: str = "sum",
    channels: int | None = None,
    variance: bool = False,
) -> Price:
    """The price of the field that `nag.sampling.guided` makes of the same guidance.

    network, references: anything that stands for the networks; the same object is the same network. channels: None if
    unknown; then terms on some channels are taken as not on all. Raises KeyError for a reference that is not given.
    """
    active = [g for g in guidance if not g.off]
    for g in active:
        completed("guidance", type(g))
    numbers = {id(network): 0}

    def number(term: Term) -> int:
        name = term.reference
        asked = network if name is None else references[name] if isinstance(name, str) else name
        return numbers.setdefault(id(asked), len(numbers))

    terms = [(g, term, number(term)) for g in active for term in g.terms() if not term.gradient]
    parts = [part(term, at, compose == "nested" and g.nests) for g, term, at in terms if g.combine is None]
    own = [g for g in active if g.combine is not None and g.terms()]
    every = tuple(combined(g, [at for of, _, at in terms if of is g]) for g in own)
    if channels is None:
        channels = 1 + max((each.channels for each in parts if each.channels is not None), default=0)
    slopes = tuple(term.interval for g in active for term in g.terms() if term.gradient)
    shaping = tuple(g for g in active if shapes(g))
    return Price(without_cancelled(parts), slopes, interpolant, channels, variance, every, shaping)
