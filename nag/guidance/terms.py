"""Guidance methods, one per file: frozen objects that list the terms they add to the conditional prediction D.

Add one: a file here with a class that has `needs`, `off` and `terms`, and a line in `nag/registry.py`. `nag.sampling`
evaluates any combination of them. What is not a weighted sum overrides an optional member of `Guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias

import pydantic
from pydantic.dataclasses import dataclass

from nag.field import Perturbation
from nag.guidance.schedule import CONSTANT, Weighting
from nag.interpolants import Interpolant, Prediction
from nag.registry import Int

if TYPE_CHECKING:
    import torch

    from nag.estimator import Estimator, Residual
    from nag.field import Field
    from nag.models.description import Role

ROUNDING = 1e-6  # levels are float32: so near to an end of an interval, a level is at that end


@dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Interval:
    """The levels at which a guidance acts: low <= t <= high in our t, 0 data and 1 noise. By default all.

    (Kynkäänniemi et al., arXiv 2404.07724, write it in sigma.) Outside it a guidance is not evaluated.
    low, high: the lowest and the highest level.
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
    return value if callable(value) or hasattr(value, "share") else name(value)


# The name of a network in `references`; or, in Python, the network itself.
if TYPE_CHECKING:
    Reference: TypeAlias = str | Field | Estimator | Residual
else:
    Reference = Annotated[str, pydantic.Field(min_length=1), pydantic.WrapValidator(_name_or_network)]


class Altered(NamedTuple):
    """How an evaluation differs from D, besides null conditions. It orders and hashes: equal ones are made once.

    shift: the network is told the level t + shift, clipped to [0, 1]. embedding_noise: (s, a) adds s t^a n to the
    embedded level, n standard normal, drawn for each sample and call. other_class: under a random class that is not
    the sample's own, drawn likewise. perturbation: of its blocks. previous: nothing is evaluated, it is D of the call
    before, D itself in the first. With the null noise condition there is no level to shift or to perturb.
    """

    shift: float = 0.0
    embedding_noise: tuple[float, float] = (0.0, 0.0)
    other_class: bool = False
    perturbation: Perturbation = Perturbation()
    previous: bool = False

    @property
    def random(self) -> bool:
        return self.other_class or self.embedding_noise[0] != 0


UNALTERED = Altered()


class Term(NamedTuple):
    """`weight` times one evaluation of a network: of the guided one, or of `reference`.

    null_noise, null_class: which of its conditions are replaced by the network's null ones. channels: how many of the
    first channels it acts on, None is all. gradient: instead of a prediction it is grad_x log g(t | x) of the estimator
    `reference`, added to the score whatever the network predicts. schedule: a factor of the weight, by the level.
    altered: what else is different in the evaluation.
    """

    null_noise: bool
    null_class: bool
    weight: float
    reference: Reference | None = None
    channels: int | None = None
    interval: Interval = EVERYWHERE
    gradient: bool = False
    schedule: Weighting = CONSTANT
    altered: Altered = UNALTERED


def away_from(
    weight: float,
    *,
    null_noise: bool = False,
    null_class: bool = False,
    reference: Reference | None = None,
    channels: int | None = None,
    interval: Interval = EVERYWHERE,
    schedule: Weighting = CONSTANT,
    altered: Altered = UNALTERED,
) -> tuple[Term, Term]:
    """`weight` times (D - D'), D' of the network or the reference, with the null conditions that are true, altered."""
    return (
        Term(False, False, weight, channels=channels, interval=interval, schedule=schedule),
        Term(null_noise, null_class, -weight, reference, channels, interval, False, schedule, altered),
    )


class Call(NamedTuple):
    """One call of a guided field: states x (N, C, H, W) at levels t (N,), and the kind of prediction.

    memory: what this guidance keeps from call to call of one run, by name; tensors are per sample.
    """

    x: torch.Tensor
    t: torch.Tensor
    interpolant: Interpolant
    predicts: Prediction
    memory: dict[str, torch.Tensor]


class Setting(NamedTuple):
    """What is known where guidance is checked: of the network, and of the sampler. None where it is not known.

    layers: blocks that can be perturbed, 0 if the network has none. shape: (C, H, W) of its states.
    """

    interpolant: Interpolant
    predicts: Prediction
    num_classes: int | None = None
    layers: int | None = None
    sampler: Any = None
    shape: tuple[int, int, int] | None = None


class Guidance(Protocol):
    """All below `terms` may be left out: `nag.registry.OPTIONAL`."""

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

    @property
    def asks(self) -> Role:
        """What its reference must be: a generator, or an estimator of the level where a term is a gradient."""
        return "level" if any(term.gradient for term in self.terms()) else "generator"

    @property
    def remembers(self) -> bool:
        """Whether its `combine` keeps something from step to step: then a sampler must make one call a step."""
        return False

    # What is added to D in place of the weighted sum of its terms: `combine(predictions, call)`, of the predictions
    # (N, C, H, W) of its terms in their order. None: the sum.
    combine: ClassVar[Any] = None

    # `output(mix, D, call)`: the guided prediction in place of the mix of all guidance (N, C, H, W). None: the mix.
    output: ClassVar[Any] = None

    # `correct(prediction, call)`: the last word on the guided prediction (N, C, H, W). None: nothing is corrected.
    correct: ClassVar[Any] = None

    # `told(call)`: the levels (N,) that all networks are told in place of t. None: t.
    told: ClassVar[Any] = None

    # `evaluated_at(call, reference)`: the states and levels at which all networks are evaluated in place of x and t.
    # Their predictions keep their x_0. `reference` is the network that it asks, a residual. None: at x and t.
    evaluated_at: ClassVar[Any] = None

    def silent(self, t: float) -> bool:
        """Whether the guided prediction is 0 at level t, so that nothing is evaluated there."""
        return False

    def refuses(self, setting: Setting) -> str | None:
        """Why it does not fit the network or the sampler; None if it does."""
        return None


def own_terms(terms: tuple[Term, ...]) -> bool:
    """Whether all terms are predictions of the guided network."""
    return all(term.reference is None and not term.gradient for term in terms)


def shapes(guidance: Guidance) -> bool:
    """Whether it does more than add to D: to what networks are told, or to the guided prediction."""
    members = (guidance.told, guidance.output, guidance.correct)
    return any(member is not None for member in members) or type(guidance).silent is not Guidance.silent
