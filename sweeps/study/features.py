"""Two small feature spaces for pictures of 16 x 16: a CNN trained on the sweep's own classes, and thumbnails."""

import math
from dataclasses import replace
from typing import ClassVar

from nag.registry import method


@method
class SmallCNN:
    """64 values before the last ReLU, after three convolutions; trained to tell shifted pictures of classes apart."""

    steps: int = 600
    seed: int = 0
    outputs: ClassVar[tuple[str, ...]] = ("features", "logits")
    trained: ClassVar[bool] = True

    def smoke(self):
        return replace(self, steps=5)

    def train(self, split, report):
        import numpy as np
        import torch
        from torch.nn.functional import cross_entropy, pad

        from nag.datasets.dataset import to_uint8

        everything = np.arange(len(split))
        images = torch.from_numpy(to_uint8(split.images(everything)))
        labels = torch.from_numpy(split.labels(everything))
        generator = torch.Generator().manual_seed(self.seed)
        state = start(int(labels.max()) + 1, generator)
        optimizer = torch.optim.AdamW([p.requires_grad_() for p in state.values()], lr=2e-3, weight_decay=0.05)
        for step in range(self.steps):
            rows = torch.randint(len(labels), (64,), generator=generator)
            x = pad(images[rows].float(), (2, 2, 2, 2), mode="reflect")
            down, right = torch.randint(5, (2,), generator=generator).tolist()
            x = x[:, :, down : down + 16, right : right + 16]
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 + math.cos(math.pi * step / self.steps)) / 2
            loss = cross_entropy(network(state, x)[1], labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            report(step + 1, self.steps)
        return {name: p.detach() for name, p in state.items()}

    def open(self, state, device="cpu"):
        import torch

        weights = {name: p.to(device) for name, p in state.items()}

        def extract(images):
            with torch.no_grad():
                features, logits = network(weights, images.to(device).float())
            return {"features": features, "logits": logits}

        return extract


def start(classes, generator):
    """He's initial weights."""
    import torch

    shapes = {"conv1": (24, 3, 3, 3), "conv2": (48, 24, 3, 3), "conv3": (64, 48, 3, 3), "hidden": (64, 256)}
    state = {}
    for name, shape in (shapes | {"logits": (classes, 64)}).items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        state[f"{name}.bias"] = torch.zeros(shape[0])
    return state


def network(state, pixels):
    """Features (N, 64) and logits of pixels 0 .. 255, (N, 3, 16, 16)."""
    from torch.nn.functional import conv2d, linear, max_pool2d, relu

    x = pixels / 127.5 - 1
    for name in ("conv1", "conv2", "conv3"):
        x = max_pool2d(relu(conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)), 2)
    features = linear(x.flatten(1), state["hidden.weight"], state["hidden.bias"])
    return features, linear(relu(features), state["logits.weight"], state["logits.bias"])


@method
class Thumbnail:
    """The picture at 4 x 4, as 48 numbers: a second opinion that no network has shaped."""

    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False

    def open(self, state=None, device="cpu"):
        from torch.nn.functional import avg_pool2d

        return lambda images: {"features": avg_pool2d(images.to(device).float() / 127.5 - 1, 4).flatten(1)}
