"""A guided network is a field again: it evaluates all branches in one batch and sums them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nag.field import NULL_NOISE, Field, levels_of
from nag.guidance.mixing import D, Evaluation, Part, Stretch, branches, has_slope, stretches
from nag.guidance.terms import Interval
from nag.interpolants import Interpolant, Prediction, convert

if TYPE_CHECKING:
    import torch

    from nag.estimator import Estimator

# On a CPU a batch that does not fit its caches is slower than the same samples in turn (benchmarks/sampling.py), so a
# batch of branches has at most so many numbers, or so many samples.
CPU_NUMBERS, CPU_SAMPLES = 4096, 4


class Slope(NamedTuple):
    """`weight` times grad_x log g(t | x), added to the score."""

    estimator: Estimator
    weight: float
    interval: Interval


Acting = tuple[bool, ...]  # which of the parts, then which of the slopes, act at a level


@dataclass(frozen=True)
class GuidedField:
    """D and `parts`, a weighted sum of branches, and `slopes`. If the network predicts a variance, it is that of D.

    networks: the guided one, then the references. Branches of one network are evaluated in one batch, except large
    batches on a CPU; only what acts at a level is evaluated. Samples may be at different levels.
    """

    networks: tuple[Field, ...]
    parts: tuple[Part, ...]
    slopes: tuple[Slope, ...] = ()
    _plans: dict[Acting, tuple[Stretch, ...]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def field(self) -> Field:
        return self.networks[0]

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
        return getattr(self.field, "has_null_class", True)

    @property
    def calls(self) -> int:
        """If everything acts. With intervals there are fewer, which `nag.field.Calls` counts."""
        everything = (True,) * (len(self.parts) + len(self.slopes))
        every = branches(self._stretches(everything))
        return sum(getattr(self.networks[b.network], "calls", 1) for b in every) + len(self.slopes)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import torch

        rows: dict[Acting, list[int]] = defaultdict(list)
        for row, acting in enumerate(self._acting(t)):
            rows[acting].append(row)
        if len(rows) == 1:
            return self._mixed(x, t, y, *rows)
        mixed = torch.cat([self._mixed(x[some], t[some], y[some], acting) for acting, some in rows.items()])
        return mixed[torch.tensor([row for some in rows.values() for row in some]).argsort()]

    def _acting(self, t: torch.Tensor) -> list[Acting]:
        """What acts on each sample; one entry for all if their levels do not matter, or are known to be equal."""
        if all(part.interval.whole for part in self.parts) and not self.slopes:
            return [(True,) * len(self.parts)]
        levels = levels_of(t) or [0.0]  # for an empty batch
        acting = {level: self._acting_at(level) for level in set(levels)}
        return [acting[level] for level in levels]

    def _acting_at(self, t: float) -> Acting:
        slopes = (has_slope(t, self.interpolant) and t in slope.interval for slope in self.slopes)
        return (*(t in part.interval for part in self.parts), *slopes)

    def _stretches(self, acting: Acting) -> tuple[Stretch, ...]:
        if acting not in self._plans:
            parts = [part for part, acts in zip(self.parts, acting, strict=False) if acts]
            self._plans[acting] = stretches(parts, self.shape[0])
        return self._plans[acting]

    def _mixed(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, acting: Acting) -> torch.Tensor:
        import torch

        plan = self._stretches(acting)
        values = self._evaluated(branches(plan), x, t, y)
        mixed = [_sum(stretch, values, x) for stretch in plan]
        mix = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        for slope, acts in zip(self.slopes, acting[len(self.parts) :], strict=True):
            if acts:
                score = slope.weight * slope.estimator.gradient(x, t)
                mix = mix + convert(score, "score", self.predicts, torch.zeros_like(x), t, self.interpolant)
        variance = self._variance(values, x, t, y)
        return mix if variance is None else torch.cat([mix, variance], dim=1)

    def _evaluated(
        self, wanted: list[Evaluation], x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
    ) -> dict[Evaluation, torch.Tensor]:
        """Every branch (N, C, H, W), as the guided network predicts; its own branches may have a variance too."""
        import torch

        values: dict[Evaluation, torch.Tensor] = {}
        for number, network in enumerate(self.networks):
            own = [branch for branch in wanted if branch.network == number]
            null_t, null_y = torch.full_like(t, NULL_NOISE), torch.full_like(y, network.num_classes)
            at_once = _branches_at_once(x, len(own))
            for some in (own[i : i + at_once] for i in range(0, len(own), at_once)):
                batch = network(
                    _joined([x] * len(some)),
                    _joined([null_t if branch.null_noise else t for branch in some]),
                    _joined([null_y if branch.null_class else y for branch in some]),
                )
                values.update(zip(some, batch.chunk(len(some)), strict=True))
            if number and network.predicts != self.predicts:
                for branch in own:
                    prediction = values[branch][:, : self.shape[0]]
                    values[branch] = convert(prediction, network.predicts, self.predicts, x, t, self.interpolant)
        return values

    def _variance(
        self, values: dict[Evaluation, torch.Tensor], x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor | None:
        """The channels of D beyond C. If the sum has no D, but its network predicts a variance, D is evaluated."""
        channels = self.shape[0]
        own = [value for branch, value in values.items() if branch.network == 0]
        if not own or own[0].shape[1] == channels:
            return None
        return (values[D] if D in values else self.field(x, t, y))[:, channels:]


def _branches_at_once(x: torch.Tensor, wanted: int) -> int:
    if x.device.type != "cpu":
        return max(1, wanted)
    return max(1, max(CPU_NUMBERS // max(1, x[:1].numel()), CPU_SAMPLES) // max(1, len(x)))


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _sum(stretch: Stretch, values: dict[Evaluation, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    import torch

    total = None
    for branch, weight in stretch.weights:
        weighted = weight * values[branch][:, stretch.first : stretch.last]
        total = weighted if total is None else total + weighted
    return torch.zeros_like(x[:, stretch.first : stretch.last]) if total is None else total
