"""The noise shift (arXiv 2510.12497, section 3): how far from its nominal level a sampled state looks.

g_phi(t | x) is trained on exact x_t. delta(t) is its mean reading of states x̂_t of a sampler at the nominal level t,
minus that of true x_t of the same classes, over its response r(t): how much its reading of true states rises for each
unit of t by which they are too noisy. So delta is in units of t, and neither the error of g_phi on true states (its
bias, reported too), nor its exaggeration, nor the frequency of classes is part of it.
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
INJECTED = 0.02  # of t, by which true states are made too noisy or too clean to find the response


@method
class NoiseShift:
    """Observe the first `count` samples of a cell at up to `levels` of its solver's levels, with the network
    `estimator`.

    shift_mean is the mean of delta(t) over the observed levels, shift_late over those below t = 0.3. Zero is ideal: a
    negative shift is no better than a positive one.

    True state i is of a training image of the class of sample i. finer: the stream is also sampled with so many times
    the steps, 1 is off: what is left of the shift then is the network's, the rest the discretisation's.
    """

    estimator: str
    count: Annotated[Int, Field(ge=2, le=100_000)] = 400
    levels: Annotated[Int, Field(ge=1, le=1000)] = 50
    finer: Annotated[Int, Field(ge=1, le=100)] = 1

    VERSION: ClassVar[int] = 2
    names: ClassVar[tuple[str, ...]] = ("shift_mean", "shift_late")
    lower_is_better: ClassVar[dict[str, bool | None]] = {"shift_mean": None, "shift_late": None}
    extrapolates: ClassVar[bool] = False
    plane: ClassVar[None] = None
    shown: ClassVar[dict[str, Shown]] = {"shift_mean": Shown(format="signed"), "shift_late": Shown(format="signed")}

    def smoke(self) -> NoiseShift:
        count, levels, finer = min(self.count, 16), min(self.levels, 3), min(self.finer, 2)
        return dataclasses.replace(self, count=count, levels=levels, finer=finer)


def observed_steps(steps: int, levels: int) -> list[int]:
    """Which solver steps to observe: the states before step 2, 3, ..., `steps`, or `levels` of them, evenly spaced."""
    inner = max(0, steps - 1)
    picked = min(inner, levels)
    return [2 + (2 * i + 1) * inner // (2 * picked) for i in range(picked)]


def of_classes(split: Split, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Positions (N,) of images with these labels (N,), the images of each class in random order, and again from the
    first one when all have been taken. -1 for a class that has none.
    """
    import numpy as np

    from nag import noise

    order = noise.permutation(seed, 0, len(split))
    order = order[np.argsort(split.labels(order), kind="stable")]
    own = split.labels(order)
    picked = np.full(len(labels), -1, dtype=np.int64)
    for label in np.unique(labels):
        first, end = np.searchsorted(own, label), np.searchsorted(own, label, side="right")
        rows = np.flatnonzero(labels == label)
        if first < end:
            picked[rows] = order[first + np.arange(len(rows)) % (end - first)]
    return picked


def true_states(
    split: Split, interpolant: Any, t: float, positions: np.ndarray, seed: int = 0, noisy_as: float | None = None
) -> Any:
    """Exact states x_t (N, C, H, W) float32 of the images at `positions`; the same noise for a seed, whatever t is.

    noisy_as: a level whose sigma they have in place of their own. Above t they are x_t + e, e ~ N(0, sigma_e^2 I) with
    sigma_t'^2 = sigma_t^2 + sigma_e^2: the error of Statement 1, by which they look like level t' = noisy_as.
    """
    import numpy as np
    import torch

    from nag import noise
    from nag.datasets.dataset import drawn

    t = float(t)  # a numpy float would make the states float64
    places = np.arange(len(positions))
    x0 = drawn(split, positions, seed, 0, places)
    eps = noise.normal(seed, places, 0, x0.shape[1:], purpose=noise.MEASURE)
    sigma = interpolant.sigma(t if noisy_as is None else float(noisy_as))
    return torch.from_numpy(interpolant.alpha(t) * x0 + sigma * eps)


def injected(t: float) -> tuple[float, float]:
    """The levels below and above t at which the response is measured."""
    return max(0.0, t - INJECTED), min(1.0, t + INJECTED)


def predictions(g: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: str, batch: int) -> np.ndarray:
    """g on states (N, C, H, W), some at a time: (N, ...) float32, as g gives them."""
    import numpy as np

    return np.concatenate([g(part.to(device)).cpu().numpy() for part in x.split(batch)])


def per_sample(sampled: np.ndarray, true: np.ndarray, response: np.ndarray | None = None) -> np.ndarray:
    """(K, M): M numbers at each of K levels whose mean is delta, and whose spread is that of its error; NaN at a level
    where the estimator does not respond, that is, where the 95 % interval of its response is not above 0.

    All (K, M): readings of sampled and of true states, which are paired by index, and the response of each true state.
    Without a response it is 1: delta is then in units of the reading.
    """
    import numpy as np

    if response is None:
        return sampled - true
    r = response.mean(axis=1, keepdims=True)
    r = np.where(r > 1.96 * _error(response)[:, None], r, np.nan)
    raw = sampled - true
    return (raw - raw.mean(axis=1, keepdims=True) / r * (response - r)) / r


def curve(each: np.ndarray) -> dict[str, list[float | None]]:
    """delta(t) and its 95 % interval, of what `per_sample` gives; None at levels without a response."""
    value, half = each.mean(axis=1), 1.96 * _error(each)
    return {"delta": _listed(value), "low": _listed(value - half), "high": _listed(value + half)}


def shift(t: np.ndarray, sampled: np.ndarray, true: np.ndarray, response: np.ndarray | None = None) -> dict[str, Any]:
    """delta(t) and its 95 % interval, from what `per_sample` takes at K levels t.

    Also the response, the estimator's own error on true states (bias), and the means of delta over all and over late
    levels.
    """
    each, late = per_sample(sampled, true, response), t < LATE
    return {
        "t": t.tolist(),
        **curve(each),
        "bias": (true.mean(axis=1) - t).tolist(),
        "response": [1.0] * len(t) if response is None else response.mean(axis=1).tolist(),
        "count": sampled.shape[1],
        "shift_mean": _mean(each),
        "shift_late": _mean(each[late]),
    }


def parts(t: np.ndarray, each: np.ndarray, finer_t: np.ndarray, finer: np.ndarray) -> dict[str, Any]:
    """The network's part of delta(t), which stays with finer steps, and what the discretisation adds, with intervals.

    each, finer: of the same samples with few and with many steps, as `per_sample` gives them, at levels that decrease.
    """
    import numpy as np

    kept = np.stack([np.interp(t[::-1], finer_t[::-1], column)[::-1] for column in finer[::-1].T], axis=1)
    added = curve(each - kept)
    return {
        "t": t.tolist(),
        **curve(kept),
        "count": each.shape[1],
        **{name: added[key] for name, key in zip(DISCRETISATION, ("delta", "low", "high"), strict=True)},
    }


DISCRETISATION = ("discretisation", "discretisation_low", "discretisation_high")


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _error(each: np.ndarray) -> Any:
    """Standard error of the mean along the last axis."""
    return each.std(axis=-1, ddof=1) / each.shape[-1] ** 0.5


def _mean(each: np.ndarray) -> dict[str, float] | None:
    """Mean of delta over the levels that have one; a sample's readings at several levels are not independent, samples
    are. None if no level has one.
    """
    import numpy as np

    each = each[np.isfinite(each).all(axis=1)]
    if not len(each):
        return None
    means = each.mean(axis=0)
    value, half = float(means.mean()), 1.96 * float(_error(means))
    return {"value": value, "low": value - half, "high": value + half}
