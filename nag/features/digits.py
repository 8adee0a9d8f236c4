"""A small convolutional classifier of 8x8 digits: 64 features and 10 logits, trained as a task of the plan."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from nag.features.extractor import Extractor
from nag.registry import Int, method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from nag.datasets.dataset import Split

SHAPES = {  # of the weights, first layer first; each layer also has a bias
    "conv1": (16, 1, 3, 3),
    "conv2": (32, 16, 3, 3),
    "conv3": (64, 32, 3, 3),
    "hidden": (64, 256),
    "logits": (10, 64),
}
BATCH, LR, WARMUP, WEIGHT_DECAY, SMOOTHING = 128, 3e-3, 50, 0.05, 0.1


@method
class Digits(Extractor):
    """The features are the 64 values of the hidden layer *before* its ReLU, not scaled.

    The Fréchet distance uses only mean and covariance. Before the ReLU the covariance has full rank and every unit has
    light tails (median kurtosis 2.7); after it, 20 to 31 of the 64 units (six seeds) are dead or fire on
    fewer than 1 image in 100. Label smoothing keeps the logits, and with them the features' scale, from growing with
    the training time.
    steps: of the CNN's training. seed: of its weights and batches.
    """

    steps: Annotated[Int, Field(ge=1, le=100_000)] = 400
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0

    VERSION: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("features", "logits")
    trained: ClassVar[bool] = True

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"features": 64, "logits": 10}

    def smoke(self) -> Digits:
        """The same with at most 20 steps, too few for good features."""
        return dataclasses.replace(self, steps=min(self.steps, 20))

    def train(self, split: Split, report: Callable[[int, int], None]) -> dict[str, Tensor]:
        """The weights after `steps` of AdamW on the split's images in uint8. Each step calls `report(done, steps)`.

        Initial weights and data order depend on the seed alone: one thread gives equal bits, and torch's global
        generator is not touched. Raises ValueError for an empty split, images that are not (1, 8, 8) or labels outside
        0 .. 9.
        """
        import numpy as np
        import torch
        from torch.nn.functional import cross_entropy

        from nag import noise
        from nag.datasets.dataset import to_uint8

        n = len(split)
        everything = np.arange(n)
        images = torch.from_numpy(to_uint8(split.images(everything)))
        labels = torch.from_numpy(split.labels(everything))
        _check_images(images)
        if n == 0 or not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
            raise ValueError("the digits extractor needs at least 1 image, and labels in 0 .. 9")
        epochs = self.steps * BATCH // n + 1
        order = torch.from_numpy(np.concatenate([noise.permutation(self.seed, epoch, n) for epoch in range(epochs)]))

        state = self._start()
        optimizer = torch.optim.AdamW([p.requires_grad_() for p in state.values()], lr=LR, weight_decay=WEIGHT_DECAY)
        for k in range(self.steps):
            batch = order[k * BATCH : (k + 1) * BATCH]
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1, (k + 1) / WARMUP) * (1 + math.cos(math.pi * k / self.steps)) / 2
            loss = cross_entropy(_network(state, images[batch])[1], labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            report(k + 1, self.steps)
        return {name: p.detach() for name, p in state.items()}

    def open(self, state: dict[str, Tensor] | None, device: Any = "cpu") -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1, 8, 8) to {"features": (N, 64), "logits": (N, 10)} float32.

        Raises ValueError if `state` is not a result of `train`; the function, for images of another type or shape.
        """
        import torch

        if state is None:
            raise ValueError("the digits extractor must be trained first: it has no weights")
        expected = {name: tuple(p.shape) for name, p in self._start().items()}
        shapes = {name: tuple(p.shape) for name, p in state.items()}
        if shapes != expected:
            raise ValueError(f"these are not weights of the digits extractor: expected {expected}; got {shapes}")
        weights = {name: p.to(device, torch.float32) for name, p in state.items()}

        def extract(images: Tensor) -> dict[str, Tensor]:
            _check_images(images)
            with torch.no_grad():
                features, logits = _network(weights, images.to(device))
            return {"features": features, "logits": logits}

        return extract

    def _start(self) -> dict[str, Tensor]:
        """Initial weights: normal with variance 2 / fan-in (He et al. 2015), 1 / fan-in for the logits; biases 0."""
        import torch

        from nag import noise

        state = {}
        for i, (name, shape) in enumerate(SHAPES.items()):
            gain = 1 if name == "logits" else 2
            weight = torch.from_numpy(noise.normal(self.seed, [i], 0, shape, noise.WEIGHTS)[0])
            state[f"{name}.weight"] = weight * math.sqrt(gain / math.prod(shape[1:]))
            state[f"{name}.bias"] = torch.zeros(shape[0])
        return state


def _network(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 64) and logits (N, 10) of uint8 images (N, 1, 8, 8)."""
    from torch.nn.functional import conv2d, linear, max_pool2d, relu

    def layer(f: Callable[..., Tensor], name: str, x: Tensor, **options: int) -> Tensor:
        return f(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    x = images.float() / 127.5 - 1
    x = relu(layer(conv2d, "conv1", x, padding=1))
    x = max_pool2d(relu(layer(conv2d, "conv2", x, padding=1)), 2)  # (N, 32, 4, 4)
    x = max_pool2d(relu(layer(conv2d, "conv3", x, padding=1)), 2)  # (N, 64, 2, 2)
    features = layer(linear, "hidden", x.flatten(1))
    return features, layer(linear, "logits", relu(features))


def _check_images(images: Tensor) -> None:
    import torch

    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (1, 8, 8):
        raise ValueError(f"images must be uint8 (N, 1, 8, 8); got {images.dtype} {tuple(images.shape)}")
