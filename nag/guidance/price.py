"""The price of guidance: network function evaluations (NFE) of one call of a guided field. No networks, no tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nag.guidance.mixing import D, Part, branches, has_slope, part, stretches, without_cancelled
from nag.guidance.terms import Guidance, Interval, Term
from nag.interpolants import Interpolant
from nag.registry import completed


@dataclass(frozen=True)
class Price:
    """What `GuidedField` evaluates: the network, its references and its estimators, for one sample.

    parts: as in GuidedField. slopes: where each estimator's gradient acts. channels: of a state. variance: whether the
    guided network returns a variance too, for which D is evaluated where the sum has other branches of it alone.
    """

    parts: tuple[Part, ...]
    slopes: tuple[Interval, ...]
    interpolant: Interpolant
    channels: int
    variance: bool
    _known: dict[tuple[bool, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, t: float) -> int:
        """Evaluations of one call at level t. Levels are float32 there, so t is rounded first."""
        (t,) = struct.unpack("f", struct.pack("f", t))
        slopes = (t in interval and has_slope(t, self.interpolant) for interval in self.slopes)
        acting = (*(t in part.interval for part in self.parts), *slopes)
        if acting not in self._known:
            self._known[acting] = self._evaluated(acting)
        return self._known[acting]

    def _evaluated(self, acting: tuple[bool, ...]) -> int:
        some = [part for part, acts in zip(self.parts, acting, strict=False) if acts]
        wanted = branches(stretches(some, self.channels))
        of_variance = self.variance and D not in wanted and any(branch.network == 0 for branch in wanted)
        return len(wanted) + of_variance + sum(acting[len(self.parts) :])

    def total(self, levels: Iterable[float]) -> int:
        """Evaluations of calls at these levels."""
        return sum(map(self.at, levels))

    @property
    def most(self) -> int:
        """Evaluations of a call at the dearest level."""
        intervals = (*(part.interval for part in self.parts), *self.slopes)
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
    terms = [(compose == "nested" and g.nests, term) for g in active for term in g.terms()]
    numbers = {id(network): 0}

    def number(term: Term) -> int:
        name = term.reference
        asked = network if name is None else references[name] if isinstance(name, str) else name
        return numbers.setdefault(id(asked), len(numbers))

    parts = [part(term, number(term), inside) for inside, term in terms if not term.gradient]
    if channels is None:
        channels = 1 + max((each.channels for each in parts if each.channels is not None), default=0)
    slopes = tuple(term.interval for _, term in terms if term.gradient)
    return Price(without_cancelled(parts), slopes, interpolant, channels, variance)
