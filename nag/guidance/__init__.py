"""Guidance methods, one a file: frozen objects that list the terms they add to the conditional prediction D."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol


class Term(NamedTuple):
    """`weight` times one evaluation of a network: of the guided one, or of the one named by `reference`."""

    null_noise: bool
    null_class: bool
    weight: float
    reference: str | None = None


class Guidance(Protocol):
    needs: ClassVar[frozenset[str]]  # of {"null_class", "null_noise"}: what the network must have been trained with

    @property
    def off(self) -> bool:
        """True where it changes nothing: then it is left out, and costs nothing."""
        ...

    def terms(self) -> tuple[Term, ...]:
        """What is added to D. The weights sum to 0, so that those of the whole mix sum to 1."""
        ...
