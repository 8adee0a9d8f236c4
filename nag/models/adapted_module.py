"""The module of other code, called in our conventions."""

from __future__ import annotations

import fnmatch
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from nag.field import NULL_NOISE
from nag.interpolants import LEVELS, Interpolant
from nag.models.convention import CONDITIONS, Convention
from nag.preconditions import told_sigma

NULL_LEVEL = 0.5  # t = -1 is no level: factors of a preconditioning, and a replaced time, are those of this one


class AdaptedModule(nn.Module):
    """forward(x (N, C, H, W), t (N,), y (N,)) -> (N, C, H, W), or 2C channels, in our convention.

    `inner` gets its own scale of x, its own time, and its own numbers of the null conditions. Conditions that it lacks,
    and whose embedding `model` names, are learned vectors here: `null_noise` and `null_class`, (D,). Where
    neither is asked for, the prediction is that of `inner`.
    Raises ValueError if it has no submodule of a name that its class gives.
    """

    null_noise: nn.Parameter | None
    null_class: nn.Parameter | None

    def __init__(
        self,
        inner: nn.Module,
        model: Any,
        convention: Convention,
        interpolant: Interpolant,
        predicts: str,
        *,
        num_classes: int,
        null_noise: bool,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inner, self.num_classes = inner, num_classes
        self.convention, self.interpolant, self.predicts = convention, interpolant, predicts
        last = getattr(model, "null_class", None)
        self.own_class = num_classes if last == "last" else last
        self.own_noise = getattr(model, "null_noise", None)
        self._rows: dict[str, Tensor] = {}  # of the batch in `inner`: which rows get a learned vector
        for name, own, wanted in (
            ("null_noise", self.own_noise, null_noise),
            ("null_class", self.own_class, True),
        ):
            place = getattr(model, CONDITIONS[name], None) if own is None else None
            self.register_parameter(name, self._learned(name, place, seed) if place and wanted else None)

    def _learned(self, name: str, place: str, seed: int) -> nn.Parameter:
        """A vector that replaces rows of the output of the submodules at `place`, a name or a pattern."""
        from nag import noise

        submodules = dict(self.inner.named_modules())
        places = fnmatch.filter(submodules, place)
        if not places:
            known = ", ".join([key for key in submodules if "embed" in key][:8] or list(submodules)[1:9])
            raise ValueError(f"{CONDITIONS[name]} is {place!r}, and its module has no such submodule; it has {known}")
        like, width = _width(submodules[places[0]], places[0])
        weight = nn.Parameter(torch.empty(width, device=like.device))
        with torch.no_grad():
            drawn = noise.normal(seed, [0], zlib.crc32(name.encode()), (width,), noise.WEIGHTS)[0]
            weight.copy_(torch.from_numpy(0.02 * drawn))  # as our own networks start
        for one in places:
            submodules[one].register_forward_hook(lambda module, args, out: self._replaced(name, place, out))
        return weight

    def _replaced(self, name: str, place: str, out: Any) -> Any:
        rows, learned = self._rows[name], getattr(self, name)
        if not isinstance(out, Tensor) or out.shape != (len(rows), len(learned)):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            wanted = (len(rows), len(learned))
            raise ValueError(f"{CONDITIONS[name]} {place!r} gives {shape}, not {wanted}; name the last of its layers")
        return torch.where(rows[:, None], learned.to(out.dtype), out)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        null_noise, null_class = t == NULL_NOISE, y == self.num_classes
        self._rows = {"null_noise": null_noise, "null_class": null_class}
        level = torch.where(null_noise, NULL_LEVEL, t)
        time = self._time(level)
        if self.own_noise is not None:
            time = torch.where(null_noise, self.own_noise, time)
        if self.own_class is not None:
            y = torch.where(null_class, self.own_class, y)
        elif self.null_class is not None:
            y = torch.where(null_class, 0, y)  # its row is replaced
        precondition, beside = self.convention.precondition, level.view(-1, 1, 1, 1)
        if precondition is None:
            return self._signed(self.inner(x, time, y), x.shape[1])
        out = self._signed(self.inner(precondition.scaled(x, beside, self.interpolant), time, y), x.shape[1])
        channels = x.shape[1]
        prediction = precondition.prediction(out[:, :channels], x, beside, self.interpolant)
        return prediction if out.shape[1] == channels else torch.cat([prediction, out[:, channels:]], dim=1)

    def _time(self, t: Tensor) -> Tensor:
        """What `inner` is told for the levels t (N,) in [0, 1]."""
        precondition = self.convention.precondition
        own = None if precondition is None else precondition.time(t, self.interpolant)
        if own is not None:
            return own
        match self.convention.time:
            case "1 - t":
                return 1 - t
            case "0..999":
                return (LEVELS * t - 1).clamp(min=0)
            case "sigma":
                return told_sigma(self.interpolant, t)
            case "log-sigma":
                return told_sigma(self.interpolant, t).log()
            case _:
                return t

    def _signed(self, out: Any, channels: int) -> Tensor:
        """Our velocity, of one by the time 1 - t; anything else as it is."""
        if not isinstance(out, Tensor):
            raise TypeError(f"the module returned a {type(out).__name__}, not a tensor; return its prediction")
        if self.predicts != "velocity" or self.convention.time != "1 - t":
            return out
        return -out if out.shape[1] == channels else torch.cat([-out[:, :channels], out[:, channels:]], dim=1)


def _width(submodule: nn.Module, place: str) -> tuple[Tensor, int]:
    """A weight of the submodule, and the width of its output, which its last layer shows."""
    for layer in reversed(list(submodule.modules())):
        if isinstance(layer, nn.Embedding):
            return layer.weight, layer.embedding_dim
        if isinstance(layer, nn.Linear):
            return layer.weight, layer.out_features
    weights = list(submodule.parameters())
    if not weights:
        raise ValueError(f"the submodule {place!r} has no weights, so it is not the end of an embedding")
    return weights[-1], weights[-1].shape[0]
