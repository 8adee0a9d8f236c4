"""Guidance methods, one per file: frozen objects that list the terms they add to the conditional prediction D.

Add one: a file here with a class that has `needs`, `off` and `terms`, and a line in `nag/registry.py`. `nag.sampling`
evaluates any combination of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

import pydantic
from pydantic.dataclasses import dataclass

from nag.registry import Int

if TYPE_CHECKING:
    from nag.estimator import Estimator
    from nag.field import Field

ROUNDING = 1e-6  # levels are float32: so near to an end of an interval, a level is at that end


@dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Interval:
    """The levels at which a guidance acts: low <= t <= high in our t, 0 data and 1 noise. By default all.

    (Kynkäänniemi et al., arXiv 2404.07724, write it in sigma.) Outside it a guidance is not evaluated.
    """

    low: Annotated[float, pydantic.Field(ge=0, le=1, strict=True)] = 0.0
    high: Annotated[float, pydantic.Field(ge=0, le=1, strict=True)] = 1.0

    @pydantic.model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) must not be above high ({self.high:g})")
        return self

    @property
    def whole(self) -> bool:
        return self.low == 0 and self.high == 1

    def __contains__(self, t: float) -> bool:
        """Every level is in the whole interval, the null noise condition t = -1 too."""
        return self.whole or self.low - ROUNDING <= t <= self.high + ROUNDING


EVERYWHERE = Interval()

Channels = Literal["all"] | Annotated[Int, pydantic.Field(ge=1)]


def _name_or_network(value: Any, name: Callable[[Any], str]) -> Any:
    return value if callable(value) else name(value)


# The name of a network in `references`; or, in Python, the network itself.
if TYPE_CHECKING:
    Reference: TypeAlias = str | Field | Estimator
else:
    Reference = Annotated[str, pydantic.Field(min_length=1), pydantic.WrapValidator(_name_or_network)]


class Term(NamedTuple):
    """`weight` times one evaluation of a network: of the guided one, or of `reference`.

    null_noise, null_class: which of its conditions are replaced by the network's null ones. channels: how many of the
    first channels it acts on, None is all. gradient: instead of a prediction it is grad_x log g(t | x) of the estimator
    `reference`, added to the score whatever the network predicts.
    """

    null_noise: bool
    null_class: bool
    weight: float
    reference: Reference | None = None
    channels: int | None = None
    interval: Interval = EVERYWHERE
    gradient: bool = False


def away_from(
    weight: float,
    *,
    null_noise: bool = False,
    null_class: bool = False,
    reference: Reference | None = None,
    channels: int | None = None,
    interval: Interval = EVERYWHERE,
) -> tuple[Term, Term]:
    """`weight` times (D - D'): D' is the network, or the reference, under the null conditions that are true."""
    return (
        Term(False, False, weight, channels=channels, interval=interval),
        Term(null_noise, null_class, -weight, reference, channels, interval),
    )


class Guidance(Protocol):
    """`nests` and `reference` may be left out: `nag.registry.OPTIONAL`."""

    needs: ClassVar[frozenset[str]]  # of {"null_class", "null_noise"}: what the network must have been trained with

    @property
    def off(self) -> bool:
        """True if it changes nothing: then it is left out, and costs nothing."""
        ...

    def terms(self) -> tuple[Term, ...]:
        """What is added to D. The weights sum to 0 (gradients apart), so that those of the whole mix sum to 1."""
        ...

    @property
    def nests(self) -> bool:
        """Whether `compose: nested` puts it inside every branch of the guidance that does not nest.

        Its terms are then of the guided network alone. By default: whether it acts along the noise condition alone.
        """
        terms = self.terms()
        return own_terms(terms) and any(t.null_noise for t in terms) and not any(t.null_class for t in terms)

    @property
    def reference(self) -> Reference | None:
        """The network that its terms ask besides the guided one."""
        return None


def own_terms(terms: tuple[Term, ...]) -> bool:
    """Whether all terms are predictions of the guided network."""
    return all(term.reference is None and not term.gradient for term in terms)
