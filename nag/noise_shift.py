"""The noise shift (arXiv 2510.12497, section 3): how far from its nominal level a sampled state looks.

g_phi(t | x) is trained on exact x_t. delta(t) is the mean of its predictions on states x̂_t of a sampler at the nominal
level t, minus the mean on true x_t. So the error of g_phi on true states (its bias, reported too) is not part of the
shift.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from nag.metrics.metric import Shown
from nag.registry import Int, method

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from nag.datasets.dataset import Split

LATE = 0.3  # late in sampling, where the paper finds the largest shift


@method
class NoiseShift:
    """Observe the first `count` samples of a cell at up to `levels` of its solver's levels, with the network
    `estimator`.

    shift_mean is the mean of delta(t) over the observed levels, shift_late over those below t = 0.3. Zero is ideal: a
    negative shift is no better than a positive one.

    True states are of training images with their own classes; samples have labels by the stream's label rule, all
    classes equally often. If classes are not equally frequent in the data, delta contains that difference too.
    """

    estimator: str
    count: Annotated[Int, Field(ge=2, le=100_000)] = 400
    levels: Annotated[Int, Field(ge=1, le=1000)] = 50

    VERSION: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("shift_mean", "shift_late")
    lower_is_better: ClassVar[dict[str, bool | None]] = {"shift_mean": None, "shift_late": None}
    extrapolates: ClassVar[bool] = False
    plane: ClassVar[None] = None
    shown: ClassVar[dict[str, Shown]] = {"shift_mean": Shown(format="signed"), "shift_late": Shown(format="signed")}

    def smoke(self) -> NoiseShift:
        return dataclasses.replace(self, count=min(self.count, 16), levels=min(self.levels, 3))


def observed_steps(steps: int, levels: int) -> list[int]:
    """Which solver steps to observe: the states before step 2, 3, ..., `steps`, or `levels` of them, evenly spaced."""
    inner = max(0, steps - 1)
    picked = min(inner, levels)
    return [2 + (2 * i + 1) * inner // (2 * picked) for i in range(picked)]


def true_states(split: Split, interpolant: Any, t: float, count: int, seed: int = 0) -> Any:
    """`count` exact states x_t (N, C, H, W) float32, of the same images and noise for a seed, whatever t is."""
    import numpy as np
    import torch

    from nag import noise
    from nag.datasets.dataset import drawn

    order = np.concatenate([noise.permutation(seed, epoch, len(split)) for epoch in range(-(-count // len(split)))])
    t = float(t)  # a numpy float would make the states float64
    x0 = drawn(split, order[:count], seed, 0, np.arange(count))
    eps = noise.normal(seed, np.arange(count), 0, x0.shape[1:], purpose=noise.MEASURE)
    return torch.from_numpy(interpolant.alpha(t) * x0 + interpolant.sigma(t) * eps)


def predictions(g: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: str, batch: int) -> np.ndarray:
    """g on states (N, C, H, W), some at a time: (N,) float32."""
    import numpy as np

    return np.concatenate([g(part.to(device)).cpu().numpy() for part in x.split(batch)])


def shift(t: np.ndarray, sampled: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """delta(t) and its 95 % interval, from predictions (K, M) on sampled and on true states at K levels t.

    Also the estimator's own error on true states (bias), and the means of delta over all and over late levels.
    """
    delta = sampled.mean(axis=1) - true.mean(axis=1)
    half = 1.96 * _error(sampled, true)
    late = t < LATE
    return {
        "t": t.tolist(),
        "delta": delta.tolist(),
        "low": (delta - half).tolist(),
        "high": (delta + half).tolist(),
        "bias": (true.mean(axis=1) - t).tolist(),
        "count": sampled.shape[1],
        "shift_mean": _mean(sampled, true),
        "shift_late": _mean(sampled[late], true[late]) if late.any() else None,
    }


def _error(sampled: np.ndarray, true: np.ndarray) -> Any:
    """Standard error of the difference of two means of M independent predictions, along the last axis."""
    return ((sampled.var(axis=-1, ddof=1) + true.var(axis=-1, ddof=1)) / sampled.shape[-1]) ** 0.5


def _mean(sampled: np.ndarray, true: np.ndarray) -> dict[str, float] | None:
    """Mean of delta over levels (K, M); a sample's predictions at several levels are not independent, samples are."""
    if not len(sampled):
        return None
    ours, theirs = sampled.mean(axis=0), true.mean(axis=0)
    value, half = float(ours.mean() - theirs.mean()), 1.96 * float(_error(ours, theirs))
    return {"value": value, "low": value - half, "high": value + half}
