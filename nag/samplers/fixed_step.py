"""What samplers share: the base of those with fixed steps, grids of levels, and a field's prediction at one level."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, cast

import pydantic

from nag.field import Field, everywhere
from nag.interpolants import GVP, LEVELS, Interpolant, Prediction, convert
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

Draw = Callable[[int], "torch.Tensor"]  # k -> (N, C, H, W)
Observe = Callable[[int, float, "torch.Tensor"], None]  # (k, t, x)
FIRST_LEVEL = 1 / LEVELS  # networks of trained betas were not trained below it
STEPS_AT_MOST = 100_000  # a grid of levels is a list in memory


class Sampler(Protocol):
    """`adaptive`, `steps`, `refuses`, `called_at` and `renoises` may be left out: `nag.registry.OPTIONAL`."""

    order: ClassVar[int]  # of convergence on its own grid as steps grow; for a stochastic sampler the weak order
    adaptive: ClassVar[bool] = False  # its steps depend on all samples of a batch, so a block is never split for it

    @property
    def steps(self) -> int | None:
        """How many steps it takes, as they are counted for `observe`; None where that depends on the states."""
        return None

    @property
    def deterministic(self) -> bool:
        """Whether it asks only for noise(0)."""
        ...

    def network_calls(self) -> int | None:
        """Evaluations of the field for one sample, at most; None where that depends on the states."""
        ...

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        """Why it cannot sample a network of this path and kind of prediction; None if it can."""
        return None

    def called_at(self, interpolant: Interpolant) -> list[float] | None:
        """The level t of each call of the field, for one sample; None where they are not known beforehand."""
        return None

    def renoises(self, interpolant: Interpolant) -> bool:
        """Whether each step from t to s is alpha_s x_0 + sigma_s eps, of one prediction at t."""
        return False

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        """Samples (N, C, H, W). `noise(0)` is the initial state, `noise(k)` the draw of step k, asked for if used.

        `observe(k, t, x)` sees the state x at level t before step k = 1, 2, ..., and once more after the last.
        """
        ...


class Stepper(Protocol):
    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """The state at `t_next` from the state x at `t` > `t_next`; `draw()` is the noise of this step."""
        ...


@method
class FixedStep:
    """A sampler on a fixed grid of levels. A subclass has `order` and `step`, and its own version of what differs.

    By default: `steps` equal steps from t = 1 to 0, one network call each, no noise after the initial state.
    steps: how many. More are nearer to the limit and cost more.
    """

    steps: Annotated[Int, pydantic.Field(ge=1, le=STEPS_AT_MOST)]

    order: ClassVar[int]
    adaptive: ClassVar[bool] = False

    @property
    def deterministic(self) -> bool:
        return True

    def network_calls(self) -> int:
        return self.steps

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        return undetermined(interpolant, predicts, 1.0)

    def grid(self, interpolant: Interpolant) -> list[float]:
        """The falling levels, from where the initial state is to where samples are."""
        return levels(1.0, 0.0, self.steps)

    def called_at(self, interpolant: Interpolant) -> list[float] | None:
        """The start of each step, if each has one network call. Give your own where `step` calls at other levels."""
        starts = self.grid(interpolant)[:-1]
        return starts if len(starts) == self.network_calls() else None

    def renoises(self, interpolant: Interpolant) -> bool:
        return False

    def solver(self) -> Stepper:
        """What takes the steps of one batch: an object of its own where steps remember earlier ones."""
        return cast(Stepper, self)

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        return march(self.solver(), field, y, noise, self.grid(field.interpolant), observe)


def march(
    solver: Stepper, field: Field, y: torch.Tensor, noise: Draw, grid: list[float], observe: Observe | None = None
) -> torch.Tensor:
    """Take the solver's steps along the falling levels of `grid`, from `noise(0)` at grid[0]."""
    x = noise(0)
    y = y.to(x.device)
    for k, (t, t_next) in enumerate(pairwise(grid), start=1):
        if observe is not None:
            observe(k, t, x)
        x = solver.step(field, x, y, t, t_next, lambda k=k: noise(k))  # type: ignore[misc]
    if observe is not None:
        observe(len(grid), grid[-1], x)
    return x


def levels(start: float, end: float, steps: int) -> list[float]:
    """steps + 1 evenly spaced levels, both ends exact."""
    return [start + (end - start) * k / steps for k in range(steps)] + [end]


def ode_levels(steps: int, interpolant: Interpolant) -> list[float]:
    """`steps` equal steps from t = 1 to 0. Where the velocity is infinite at t = 0 (VP) they end at 1/1000, and the
    last one goes from there to `data`.
    """
    if reaches_data(interpolant):
        return levels(1.0, 0.0, steps)
    return [*levels(1.0, FIRST_LEVEL, steps - 1), 0.0] if steps > 1 else [1.0, 0.0]


def respaced(steps: int) -> list[float]:
    """DiT's respacing: `steps` of the trained levels, both ends among them, falling, and 0. One step is from t = 1.

    The stride is added up and rounded as the official code does: i times the stride rounds otherwise for 283 numbers
    of steps, such as 35.
    """
    if steps == 1:
        return [1.0, 0.0]
    picked, stride, place = [], (LEVELS - 1) / (steps - 1), 0.0
    for _ in range(steps):
        picked.append(round(place))
        place += stride
    return [(level + 1) / LEVELS for level in reversed(picked)] + [0.0]


def evaluate(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The field's output with all samples at one level: (N, C, H, W), or 2C channels with a variance."""
    return field(x, everywhere(t, x), y)


def predict(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The field's prediction (N, C, H, W) with all samples at one level, without its variance."""
    return evaluate(field, x, y, t)[:, : field.shape[0]]


def velocity(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The probability-flow velocity dx/dt, (N, C, H, W), with all samples at one level."""
    return convert(predict(field, x, y, t), field.predicts, "velocity", x, t, field.interpolant)


def data(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The x_0 (N, C, H, W) that the field predicts, with all samples at one level."""
    return convert(predict(field, x, y, t), field.predicts, "x0", x, t, field.interpolant)


def half_log_snr(interpolant: Interpolant, t: float) -> float:
    """lambda(t) = log(alpha / sigma): -inf where alpha is 0, inf where sigma is 0."""
    alpha, sigma = interpolant.alpha(t), interpolant.sigma(t)
    return math.inf if sigma == 0 else -math.inf if alpha == 0 else math.log(alpha / sigma)


def reaches_data(interpolant: Interpolant) -> bool:
    """Whether the velocity is finite at t = 0. That of VP is not, and its networks were not trained there."""
    return math.isfinite(interpolant.dsigma(0.0))


def undetermined(interpolant: Interpolant, predicts: Prediction, t: float) -> str | None:
    """Why a prediction at t does not determine x_0 and eps, and so the velocity; None if it does."""
    if predicts in ("eps", "score") and interpolant.alpha(t) == 0:
        return f"it asks at t = {t:g}, where alpha is 0 and a network that predicts {predicts} says nothing about x_0"
    if predicts == "x0" and interpolant.sigma(t) == 0:
        return f"it asks at t = {t:g}, where sigma is 0 and a network that predicts x0 says nothing about eps"
    return None


def not_by_log_snr(interpolant: Interpolant, predicts: Prediction, steps: int) -> str | None:
    """Why a solver in lambda, on `steps` equal steps from t = 1, cannot sample this network; None if it can."""
    if isinstance(interpolant, GVP):
        return "diffusers, which it follows, has the paths linear and vp, not gvp; heun and dopri5 take it"
    if not reaches_data(interpolant) and steps > LEVELS:
        return f"more than {LEVELS} steps ask below t = {FIRST_LEVEL:g}, where the network was not trained"
    return undetermined(interpolant, predicts, 1.0)
