"""Guide a field, and sample from it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nag.field import NULL_NOISE, Field
from nag.guidance import Guidance, Term
from nag.interpolants import Interpolant, Prediction
from nag.samplers.stepping import Draw, Sampler

if TYPE_CHECKING:
    import torch


def sample(
    field: Field,
    sampler: Sampler,
    *,
    noise: Draw,
    labels: Any,
    guidance: Guidance | tuple[Guidance, ...] | None = None,
) -> torch.Tensor:
    """Samples (N, C, H, W) of `field`, on the device of the noise.

    noise: `noise(0)` the initial state (N, C, H, W), `noise(k)` the draw of step k, such as `nag.noise.Noise`.
    labels: (N,) whole numbers in [0, num_classes], num_classes is the null class; else ValueError.
    guidance: one, several in any order, or none.
    """
    import torch

    y = torch.as_tensor(labels)
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers of shape (N,), got {y.dtype} of shape {tuple(y.shape)}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) <= field.num_classes:
        raise ValueError(f"labels must be in [0, {field.num_classes}], got {int(y.min())} to {int(y.max())}")
    parts = guidance if isinstance(guidance, tuple | list) else () if guidance is None else (guidance,)
    return sampler(guided(field, tuple(parts)), y.to(torch.int64), noise)


def guided(field: Field, guidance: tuple[Guidance, ...]) -> Field:
    """The field D + the terms of all `guidance`, a field again; `field` itself where all of it is off.

    Terms that are equal but for their weight are one, terms of weight 0 are left out, and the rest is evaluated in one
    batch. Raises ValueError if the network lacks a null condition that is needed, or a reference network.
    """
    active = [g for g in guidance if not g.off]
    for g in active:
        for condition, has in (("null_noise", field.has_null_noise), ("null_class", _has_null_class(field))):
            if condition in g.needs and not has:
                name, words = type(g).__name__, condition.replace("_", " ")
                raise ValueError(f"{name} needs a network that was trained with a {words} condition; this one was not")
    terms = merged([t for g in active for t in g.terms()])
    for term in terms:
        if term.reference is not None:
            raise ValueError(f"guidance asks for the reference network {term.reference!r}, and there is none")
    return GuidedField(field, terms) if active else field


def _has_null_class(field: Field) -> bool:
    return getattr(field, "has_null_class", True)


def merged(terms: list[Term]) -> tuple[Term, ...]:
    """D and `terms`, like ones summed (exactly, so that their order does not matter), in a fixed order."""
    weights: dict[tuple[bool, bool, str], list[float]] = defaultdict(list)
    for term in [Term(False, False, 1.0), *terms]:
        weights[term.null_noise, term.null_class, term.reference or ""].append(term.weight)
    sums = {key: math.fsum(values) for key, values in sorted(weights.items())}
    return tuple(Term(key[0], key[1], weight, key[2] or None) for key, weight in sums.items() if weight != 0)


@dataclass(frozen=True)
class GuidedField:
    """sum over `terms` of weight * field(x, t or null, y or null). With 2C channels, the first C are mixed."""

    field: Field
    terms: tuple[Term, ...]

    @property
    def interpolant(self) -> Interpolant:
        return self.field.interpolant

    @property
    def predicts(self) -> Prediction:
        return self.field.predicts

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.field.shape

    @property
    def num_classes(self) -> int:
        return self.field.num_classes

    @property
    def has_null_noise(self) -> bool:
        return self.field.has_null_noise

    @property
    def has_null_class(self) -> bool:
        return _has_null_class(self.field)

    @property
    def calls(self) -> int:
        return len(self.terms) * getattr(self.field, "calls", 1)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import torch

        null_t, null_y = torch.full_like(t, NULL_NOISE), torch.full_like(y, self.num_classes)
        batch = self.field(
            torch.cat([x] * len(self.terms)),
            torch.cat([null_t if term.null_noise else t for term in self.terms]),
            torch.cat([null_y if term.null_class else y for term in self.terms]),
        )
        branches = batch.chunk(len(self.terms))
        channels = self.shape[0]
        mix = self.terms[0].weight * branches[0][:, :channels]
        for term, branch in zip(self.terms[1:], branches[1:], strict=True):
            mix = mix + term.weight * branch[:, :channels]
        variance = branches[0][:, channels:]
        return torch.cat([mix, variance], dim=1) if variance.shape[1] else mix
