"""Networks of other code, as a user would bring them: description classes and plain modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nag.registry import SOURCE, method
from nag.training import prediction_loss

SHAPE, CLASSES = (1, 8, 8), 10
SEEN: dict[str, Tensor] = {}  # what the last Echo was called with


class Echo(nn.Module):
    """It returns `answer(x)` and keeps what it was told."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        SEEN.update(x=x, time=time, y=y)
        return self.weight * self.answer(x)


class Conditioned(nn.Module):
    """A convolution with embeddings of time and class, whose last layers are linear."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.time_embed = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label_embed = nn.Embedding(classes, width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        embedded = self.time_embed(time[:, None] / 1000) + self.label_embed(y)
        return self.last(nn.functional.silu(self.first(x) + embedded[:, :, None, None]))


@method
class Model:
    """What all classes here share."""

    width: int = 8
    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = True

    def fits(self, shape: Any) -> None:
        pass

    def module(self, shape: Any, num_classes: int, null_noise: bool, seed: int = 0) -> nn.Module:
        return Conditioned(shape[0], num_classes, self.width)

    def loss(self, interpolant: Any, predicts: str) -> Any:
        return prediction_loss(interpolant, predicts)


@method
class Teachable(Model):
    """No null condition, and embeddings that can learn both."""

    time_embedding: ClassVar[str] = "time_embed"
    class_embedding: ClassVar[str] = "label_embed"


setattr(Teachable, SOURCE, "a" * 32)  # as the orchestrator marks a class that it imports


@method
class Own(Model):
    """Null conditions of its own: class 10 of 11, time -5."""

    null_class: ClassVar[int] = 10
    null_noise: ClassVar[float] = -5.0

    def module(self, shape: Any, num_classes: int, null_noise: bool, seed: int = 0) -> nn.Module:
        return Echo(lambda x: x)
