"""A guided network is a field again: it evaluates all branches in one batch and sums them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.field import Field, levels_of
from nag.guidance.branch_inputs import Inputs
from nag.guidance.mixing import (
    Combined,
    D,
    Evaluation,
    Part,
    Stretch,
    evaluations,
    has_slope,
    needs_d,
    single,
    stretches,
)
from nag.guidance.run_state import RunState, steps
from nag.guidance.schedule import CONSTANT
from nag.guidance.terms import Call, Guidance, Interval
from nag.interpolants import Interpolant, Prediction, convert

if TYPE_CHECKING:
    import torch

    from nag.estimator import Estimator

# On a CPU a batch that does not fit its caches is slower than the same samples in turn (benchmarks/sampling.py), so a
# batch of branches has at most so many numbers, or so many samples.
CPU_NUMBERS, CPU_SAMPLES = 4096, 4
PLANS = 10_000  # sums of weights that a field keeps; with a schedule each level has its own


class Slope(NamedTuple):
    """`weight` times grad_x log g(t | x), added to the score."""

    estimator: Estimator
    weight: float
    interval: Interval


class Move(NamedTuple):
    """A guidance that says where networks are evaluated, and the network that it asks."""

    guidance: Guidance
    reference: Any
    interval: Interval


class Acting(NamedTuple):
    """What acts at a level: the factor of each part's weight, and whether each slope, combination and move acts."""

    factors: tuple[float, ...]
    slopes: tuple[bool, ...] = ()
    combined: tuple[bool, ...] = ()
    silent: bool = False
    moved: bool = False


class Place(NamedTuple):
    """Where networks are evaluated: states, levels, the levels that they are told. moved: not at the field's own."""

    x: torch.Tensor
    t: torch.Tensor
    told: torch.Tensor
    moved: bool = False


@dataclass(frozen=True)
class GuidedField:
    """D and `parts`, a weighted sum of branches; what `combined` and `slopes` add; and what `shaping` makes of the sum.

    networks: the guided one, then the references. Branches of one network are evaluated in one batch, except large
    batches on a CPU; only what acts at a level is evaluated. Samples may be at different levels. If the network
    predicts a variance, it is that of D. shaping: guidance with `told`, `output`, `correct` or `silent`. move: the one
    with `evaluated_at`.

    state: of a run of a sampler. Guidance that remembers steps or draws random numbers needs one: `begin`.
    """

    networks: tuple[Field, ...]
    parts: tuple[Part, ...]
    slopes: tuple[Slope, ...] = ()
    combined: tuple[Combined, ...] = ()
    shaping: tuple[Guidance, ...] = ()
    move: Move | None = None
    state: RunState | None = dataclasses.field(default=None, repr=False, compare=False)
    _plans: dict[Any, tuple[Stretch, ...]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def begin(self, draws: Any, levels: Iterable[float] | None) -> GuidedField:
        """The same field for one run over one batch. draws: noise of its samples. levels: of the calls, if known."""
        return dataclasses.replace(self, state=RunState(draws, steps(levels or ())))

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
        every = self._wanted(Acting((1.0,) * len(self.parts), combined=(True,) * len(self.combined)))
        return sum(getattr(self.networks[b.network], "calls", 1) for b in every) + len(self.slopes)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Raises ValueError for guidance that needs a run (`begin`), or whose run has samples at different levels."""
        import torch

        rows: dict[Acting, list[int]] = defaultdict(list)
        for row, acting in enumerate(self._acting(t)):
            rows[acting].append(row)
        if len(rows) == 1:
            mixed = self._guided(x, t, y, *rows)
        elif self._needs_run:
            raise ValueError("guidance that remembers or draws needs all samples of a call at one level")
        else:
            mixed = torch.cat([self._guided(x[some], t[some], y[some], acting) for acting, some in rows.items()])
            mixed = mixed[torch.tensor([row for some in rows.values() for row in some]).argsort()]
        if self.state is not None:
            self.state.calls += 1
        return mixed

    @property
    def _needs_run(self) -> bool:
        altered = [part.branch.altered for part in self.parts]
        altered += [branch.altered for each in self.combined for branch in each.branches]
        return any(a.previous or a.random for a in altered) or any(each.guidance.remembers for each in self.combined)

    def _acting(self, t: torch.Tensor) -> list[Acting]:
        """What acts on each sample; one entry for all if their levels do not matter, or are known to be equal."""
        always = all(part.interval.whole and part.schedule == CONSTANT for part in self.parts)
        if always and not (self.slopes or self.combined or self.shaping or self.move):
            return [Acting((1.0,) * len(self.parts))]
        levels = levels_of(t) or [0.0]  # for an empty batch
        acting = {level: self._acting_at(level) for level in set(levels)}
        return [acting[level] for level in levels]

    def _acting_at(self, t: float) -> Acting:
        if any(each.silent(t) for each in self.shaping):
            return Acting((), silent=True)
        to = self.state.to.get(single(t)) if self.state is not None else None
        return Acting(
            tuple(part.factor(t, to, self.interpolant) for part in self.parts),
            tuple(has_slope(t, self.interpolant) and t in slope.interval for slope in self.slopes),
            tuple(t in each.interval for each in self.combined),
            moved=self.move is not None and t > 0 and has_slope(t, self.interpolant) and t in self.move.interval,
        )

    def _stretches(self, factors: tuple[float, ...]) -> tuple[Stretch, ...]:
        if factors in self._plans:
            return self._plans[factors]
        parts = [p._replace(weight=p.weight * f) for p, f in zip(self.parts, factors, strict=True) if f]
        plan = stretches(parts, self.shape[0])
        if len(self._plans) < PLANS:
            self._plans[factors] = plan
        return plan

    def _wanted(self, acting: Acting) -> list[Evaluation]:
        each = [some for some, acts in zip(self.combined, acting.combined, strict=True) if acts]
        return evaluations(self._stretches(acting.factors), each, needs_d(self.parts, self.shaping))

    def _guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, acting: Acting) -> torch.Tensor:
        import torch

        if acting.silent:
            return torch.zeros_like(x)
        if self._needs_run and self.state is None:
            raise ValueError("this guidance remembers or draws in a run of a sampler: use nag.sample, or field.begin")
        own, channels = [self._call(each, x, t) for each in self.shaping], self.shape[0]
        place = self._place(x, t, own, acting)
        values = self._evaluated(self._wanted(acting), x, t, place, y)
        self._recall(values, channels)
        plan = self._stretches(acting.factors)
        mixed = [_sum(stretch, values, x) for stretch in plan]
        mix = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        for one, acts in zip(self.combined, acting.combined, strict=True):
            if acts:
                predictions = tuple(values[branch][:, :channels] for branch in one.branches)
                mix = mix + one.guidance.combine(predictions, self._call(one.guidance, x, t))
        for slope, acts in zip(self.slopes, acting.slopes, strict=True):
            if acts:
                score = slope.weight * slope.estimator.gradient(x, t)
                mix = mix + convert(score, "score", self.predicts, torch.zeros_like(x), t, self.interpolant)
        for each, call in zip(self.shaping, own, strict=True):
            mix = each.output(mix, values[D][:, :channels], call) if each.output is not None else mix
        for each, call in zip(self.shaping, own, strict=True):
            mix = each.correct(mix, call) if each.correct is not None else mix
        variance = self._variance(values, place, y)
        return mix if variance is None else torch.cat([mix, variance], dim=1)

    def _place(self, x: torch.Tensor, t: torch.Tensor, own: list[Call], acting: Acting) -> Place:
        """own: the call of each guidance in `shaping`. At most one says what levels are told, or moves the states."""
        told = t
        for each, call in zip(self.shaping, own, strict=True):
            told = each.told(call) if each.told is not None else told
        if self.move is None or not acting.moved:
            return Place(x, t, told)
        moved, level = self.move.guidance.evaluated_at(self._call(self.move.guidance, x, t), self.move.reference)
        return Place(moved, level, level, moved=True)

    def _call(self, guidance: Guidance, x: torch.Tensor, t: torch.Tensor) -> Call:
        memory = {} if self.state is None else self.state.memory[id(guidance)]
        return Call(x, t, self.interpolant, self.predicts, memory)

    def _recall(self, values: dict[Evaluation, torch.Tensor], channels: int) -> None:
        """Add D of the call before, where a part asks for it; and keep this one's."""
        if self.state is None or not any(part.branch.altered.previous for part in self.parts):
            return
        now = values[D][:, :channels]
        before = now if self.state.before is None else self.state.before
        values.update({part.branch: before for part in self.parts if part.branch.altered.previous})
        self.state.before = now

    def _evaluated(
        self, wanted: list[Evaluation], x: torch.Tensor, t: torch.Tensor, place: Place, y: torch.Tensor
    ) -> dict[Evaluation, torch.Tensor]:
        """Every branch (N, C, H, W), as the guided network predicts at x and t; its own may have a variance too."""
        values: dict[Evaluation, torch.Tensor] = {}
        for number, network in enumerate(self.networks):
            own = [branch for branch in wanted if branch.network == number]
            inputs = Inputs(network, place.x, place.told, y, self.state)
            at_once = _branches_at_once(x, len(own))
            for some in (own[i : i + at_once] for i in range(0, len(own), at_once)):
                values.update(zip(some, inputs.evaluate(some).chunk(len(some)), strict=True))
            if place.moved or network.predicts != self.predicts:
                for branch in own:
                    values[branch] = self._restated(values[branch], network.predicts, x, t, place)
        return values

    def _restated(
        self, value: torch.Tensor, predicts: Prediction, x: torch.Tensor, t: torch.Tensor, place: Place
    ) -> torch.Tensor:
        """A prediction at `place` as what the guided network predicts at x and t; a variance stays."""
        import torch

        prediction, variance = value[:, : self.shape[0]], value[:, self.shape[0] :]
        if place.moved:  # through x_0, which is kept
            prediction = convert(prediction, predicts, "x0", place.x, place.t, self.interpolant)
            predicts = "x0"
        stated = convert(prediction, predicts, self.predicts, x, t, self.interpolant)
        return torch.cat([stated, variance], dim=1) if variance.shape[1] else stated

    def _variance(self, values: dict[Evaluation, torch.Tensor], place: Place, y: torch.Tensor) -> torch.Tensor | None:
        """The channels of D beyond C. If the sum has no D, but its network predicts a variance, D is evaluated."""
        channels = self.shape[0]
        own = [value for branch, value in values.items() if branch.network == 0]
        if not own or own[0].shape[1] == channels:
            return None
        return (values[D] if D in values else self.field(place.x, place.told, y))[:, channels:]


def _branches_at_once(x: torch.Tensor, wanted: int) -> int:
    if x.device.type != "cpu":
        return max(1, wanted)
    return max(1, max(CPU_NUMBERS // max(1, x[:1].numel()), CPU_SAMPLES) // max(1, len(x)))


def _sum(stretch: Stretch, values: dict[Evaluation, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    import torch

    total = None
    for branch, weight in stretch.weights:
        value = values[branch][:, stretch.first : stretch.last]
        weighted = value if weight == 1 else weight * value
        total = weighted if total is None else total + weighted
    return torch.zeros_like(x[:, stretch.first : stretch.last]) if total is None else total
