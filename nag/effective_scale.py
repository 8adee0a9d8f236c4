"""The effective guidance scale ("Guidance Matters", GA-Eval, arXiv 2602.22570): the scale of plain CFG that would move
each prediction as far as a guidance does.

At an evaluation of the guided field, at level t on a state x, it is 1 + |guided - D| / |D - D_null| for each sample,
with L2 norms over (C, H, W). D is the network's conditional prediction, D_null its prediction under the null class. So
CFG of scale s >= 1 on all channels has exactly s, and no guidance has 1. It compares lengths only, not directions. It
is the same for velocity, eps, x0 and score, whose differences are proportional at one level and state. An evaluation
where D and D_null are equal up to rounding is left out, as for an exact network at t = 0.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from nag.intervals import influence_interval
from nag.metrics.metric import Shown
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np
    import torch

DECIMALS = 6  # of a level: it is float32 in a call
BINS = 20  # of t, for the curve of an adaptive solver: its levels differ between blocks
NOTE = "Effective scale: plain CFG of this scale would move the predictions as far. It says nothing of the direction."
SAME = "for some samples the network predicts the same with and without the class at every level"
ROUNDING = 1000  # machine epsilons of |D|: a distance |D - D_null| within these gives less than three digits


@method
class EffectiveScale:
    """Measure the first `count` samples of a cell, at every evaluation of its guided field.

    effective_scale is the mean over a sample's evaluations, then over samples. The network must have been trained with
    the null class.
    """

    count: Annotated[Int, Field(ge=2, le=10_000)] = 400

    VERSION: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("effective_scale",)
    lower_is_better: ClassVar[dict[str, bool | None]] = {"effective_scale": None}
    extrapolates: ClassVar[bool] = False
    plane: ClassVar[None] = None
    shown: ClassVar[dict[str, Shown]] = {"effective_scale": Shown(label="effective scale", cost=True, note=NOTE)}
    condition: ClassVar[str] = "null_class"  # the network must have learned it

    def smoke(self) -> EffectiveScale:
        return dataclasses.replace(self, count=min(self.count, 16))


class Recording:
    """A guided field that also notes the effective scale of the first `keep` samples of each batch.

    Its predictions and all its other members are those of `guided`. It also evaluates D and D_null; `network_calls`
    counts these evaluations, over all samples. t, scale: (K, keep) in the order of the K calls.
    """

    def __init__(self, guided: Any, network: Any, keep: int) -> None:
        """network: the one that is guided. Without guidance it is `guided` itself, and nothing more is evaluated.

        Raises ValueError if it was not trained with the null class.
        """
        if not getattr(network, "has_null_class", True):
            raise ValueError(
                "an effective scale needs a network that was trained with a null class condition; this one was not"
            )
        self._guided, self._network, self._keep = guided, network, keep
        self._t: list[torch.Tensor] = []
        self._scale: list[torch.Tensor] = []
        self.network_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guided, name)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import torch

        prediction: torch.Tensor = self._guided(x, t, y)
        if self._keep == 0:
            return prediction
        x, t, y = (each[: self._keep] for each in (x, t, y))
        self._t.append(t)
        if self._guided is self._network:
            self._scale.append(torch.ones(len(x), dtype=torch.float64))
            return prediction
        channels, null = self._network.shape[0], torch.full_like(y, self._network.num_classes)
        D, D_null = (self._network(x, t, condition)[:, :channels] for condition in (y, null))
        self.network_calls += 2 * getattr(self._network, "calls", 1) * len(x)
        self._scale.append(scales(prediction[: self._keep, :channels], D, D_null))
        return prediction

    @property
    def t(self) -> np.ndarray:
        return _stacked(self._t)

    @property
    def scale(self) -> np.ndarray:
        return _stacked(self._scale)


def _stacked(parts: list[torch.Tensor]) -> np.ndarray:
    import numpy as np

    return np.stack([part.cpu().numpy().astype(np.float64) for part in parts]) if parts else np.empty((0, 0))


def scales(guided: torch.Tensor, D: torch.Tensor, D_null: torch.Tensor) -> torch.Tensor:
    """1 + |guided - D| / |D - D_null| of predictions (N, C, H, W): (N,) float64. NaN where D and D_null are equal up
    to rounding.
    """
    import torch

    rounding = ROUNDING * torch.finfo(D.dtype).eps * D.double().flatten(1).norm(dim=1)
    update, distance = ((a.double() - D.double()).flatten(1).norm(dim=1) for a in (guided, D_null))
    return torch.where(distance > rounding, 1 + update / distance, torch.nan)


def summary(sample: np.ndarray, t: np.ndarray, scale: np.ndarray, bins: int | None = None) -> dict[str, Any]:
    """The effective scale of samples 0 to N - 1. sample, t, scale: (E,) of the E evaluations.

    "score": the mean over the N means of samples, with its 95 % interval: samples are independent, the evaluations of
    one are not. "influence": (N,) float64, each sample's mean less the mean of all. "curve": the mean at each level,
    from high to low, with its interval. bins: the number of bins of t; None takes each level by itself.

    Scales that are NaN are left out. If a sample has no other, the score is None, with the reason. A level's value is
    None if fewer than two samples have one there.
    """
    import numpy as np

    means = _means(sample, scale, 1 + int(sample.max()))
    score: dict[str, Any] = {"value": None, "low": None, "high": None, "extrapolated": None, "reason": SAME}
    if (~np.isnan(means)).all():
        value = float(means.mean())
        low, high = influence_interval(value, means - value)
        score |= {"value": value, "low": low, "high": high, "reason": None}
    return {"score": score, "influence": means - means.mean(), "curve": _curve(sample, t, scale, bins)}


def _means(key: np.ndarray, scale: np.ndarray, keys: int) -> np.ndarray:
    """The mean scale for each key from 0 to keys - 1, without scales that are NaN; NaN if none is left."""
    import numpy as np

    known = ~np.isnan(scale)
    total, number = np.bincount(key[known], scale[known], keys), np.bincount(key[known], minlength=keys)
    return np.divide(total, number, out=np.full(keys, np.nan), where=number > 0)


def _curve(sample: np.ndarray, t: np.ndarray, scale: np.ndarray, bins: int | None) -> dict[str, Any]:
    import numpy as np

    levels, place = np.unique(np.round(t, DECIMALS), return_inverse=True)
    if bins is not None:
        levels, place = (np.arange(bins) + 0.5) / bins, np.clip(np.floor(t * bins), 0, bins - 1).astype(np.int64)
    samples = 1 + int(sample.max())
    table = _means(place * samples + sample, scale, len(levels) * samples).reshape(len(levels), samples)
    curve: dict[str, Any] = {"t": levels[::-1].tolist(), "scale": [], "low": [], "high": [], "count": samples}
    for row in table[::-1]:
        means = row[~np.isnan(row)]
        value = float(means.mean()) if len(means) > 1 else None
        low, high = influence_interval(value, means - value) if value is not None else (None, None)
        for name, number in (("scale", value), ("low", low), ("high", high)):
            curve[name].append(number)
    return curve
