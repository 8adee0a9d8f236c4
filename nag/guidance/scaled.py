"""The bases of guidance with one `scale`: along a condition, against a reference, or against perturbed blocks."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, ClassVar, Self

import pydantic

from nag.field import Perturbation
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Altered, Interval, Reference, Term, away_from
from nag.registry import Int, method

Layer = Annotated[Int, pydantic.Field(ge=0, le=9999)]


def _each_once(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or len(set(layers)) < len(layers):
        raise ValueError("the layers must be numbers of blocks, at least one, each once")
    return tuple(sorted(layers))


@method
class Scaled:
    """Guidance with a `scale`, which is off at `OFF`."""

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]

    OFF: ClassVar[float]
    needs: ClassVar[frozenset[str]] = frozenset()
    nests: ClassVar[bool] = False

    @property
    def off(self) -> bool:
        return self.scale == self.OFF


@method
class Referenced(Scaled):
    """Guidance with a `scale` and a network `reference`, at the levels of `interval`."""

    reference: Reference
    interval: Interval = Interval()


@method
class Perturbed(Scaled, abc.ABC):
    """D + s (D - D'), D' with the blocks `layers` perturbed; s = `scale`, 0 is off. `perturbation` says how.

    layers: which blocks of the transformer, counted from 0.
    """

    layers: Annotated[tuple[Layer, ...], pydantic.Field(strict=False), pydantic.AfterValidator(_each_once)]
    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    OFF: ClassVar[float] = 0
    reference: ClassVar[None] = None

    def smoke(self) -> Self:
        """The first block, which every network has."""
        return dataclasses.replace(self, layers=(0,))

    @abc.abstractmethod
    def perturbation(self) -> Perturbation: ...

    def terms(self) -> tuple[Term, ...]:
        altered = Altered(perturbation=self.perturbation())
        return away_from(self.scale, interval=self.interval, schedule=self.schedule, altered=altered)
