"""UniPC (Zhao et al., arXiv 2302.04867): a multistep predictor, corrected by each new prediction at no call more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from nag.field import Field
from nag.interpolants import Interpolant, Prediction
from nag.registry import method
from nag.samplers.fixed_step import FixedStep, data, half_log_snr, not_by_log_snr

if TYPE_CHECKING:
    import torch


@method
class UniPC(FixedStep):
    """UniPC-2 with B(h) = e^h - 1 (bh2) for x_0, on `steps` equal steps from t = 1 to 0; one network call a step.

    In each step the prediction m at the state corrects the state itself (UniC-2), then UniP-2 goes on from there, which
    is diffusers' UniPCMultistepScheduler but on levels of our own, none of them rounded or clipped, the network fed
    exactly the state's level. The first step, and the last, which returns x_0, are of order 1.

    So the whole run is not of UniPC-2's order 3 (theorem 3.1), which its steps have away from the ends: on the linear
    path its error falls as steps^-1.3 to ^-1.8 between 10 and 40 steps, and as steps^-2 from there to 320.
    """

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 2

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        return not_by_log_snr(interpolant, predicts, self.steps)

    def solver(self) -> Solver:
        return Solver()


class Point(NamedTuple):
    """Where a step began: level, lambda, the (corrected) state and the prediction there."""

    t: float
    lam: float
    x: torch.Tensor
    m: torch.Tensor


class Solver:
    """The solver of one batch: its steps use the two points before."""

    def __init__(self) -> None:
        self._points: tuple[Point, ...] = ()  # the last one, after the one before it

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        path, m = field.interpolant, data(field, x, y, t)
        if self._points:
            x = _corrected(path, self._points, t, m)
        self._points = (*self._points[-1:], Point(t, half_log_snr(path, t), x, m))
        return _predicted(path, self._points, t_next)


def _predicted(path: Interpolant, points: tuple[Point, ...], t: float) -> torch.Tensor:
    """UniP: the state at level t, after the points. Of order 1 with one point, and where lambda(t) is infinite."""
    last, h = points[-1], half_log_snr(path, t) - points[-1].lam
    x = _first_order(path, last, t, h)
    if len(points) == 1 or math.isinf(h):
        return x
    return x - 0.5 * path.alpha(t) * math.expm1(-h) * _slope(points, h)


def _corrected(path: Interpolant, points: tuple[Point, ...], t: float, m: torch.Tensor) -> torch.Tensor:
    """UniC: the state at level t, after the points, now that the prediction m at t is known."""
    last, h = points[-1], half_log_snr(path, t) - points[-1].lam
    b = math.expm1(-h)
    if len(points) == 1:
        change = 0.5 * (m - last.m)
    else:  # rho of the paper: rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2, with r = 1 / q
        q = h / (points[0].lam - last.lam)
        phi = b / -h - 1
        b_1, b_2 = phi / b, 2 * (phi / -h - 0.5) / b
        rho = (b_1 - b_2) * q / (q - 1)
        change = rho * _slope(points, h) + (b_1 - rho) * (m - last.m)
    return _first_order(path, last, t, h) - path.alpha(t) * b * change


def _first_order(path: Interpolant, last: Point, t: float, h: float) -> torch.Tensor:
    return path.sigma(t) / path.sigma(last.t) * last.x - path.alpha(t) * math.expm1(-h) * last.m


def _slope(points: tuple[Point, ...], h: float) -> torch.Tensor:
    """D_1 / r of the paper: by how much the predictions change over a step h. From lambda = -inf (t = 1) it is 0."""
    before, last = points
    return h / (before.lam - last.lam) * (before.m - last.m)
