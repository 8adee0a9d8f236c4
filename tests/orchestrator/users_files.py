"""What a user of `use:` would write: guidance, networks with adapters, a file of every family, and their sweeps."""

from __future__ import annotations

from pathlib import Path

GUIDANCE = '''\
from typing import ClassVar

from nag.guidance import Interval, Term
from nag.registry import method


@method
class LateNAG:
    """D + w (D - D[null noise]) at levels t up to `until`, D above; w = `scale`, 0 is off."""

    scale: float
    until: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"null_noise"})
    off = property(lambda self: self.scale == 0)

    def terms(self) -> tuple[Term, ...]:
        late = Interval(high=self.until)
        return Term(False, False, self.scale, interval=late), Term(True, False, -self.scale, interval=late)
'''

# The foreign network: initial weights and dropout from torch's own generator, a buffer that is in no state dict, its
# own idea of time, and a part in a third file that is imported only when it is called.
CONVNET = """\
import torch
from torch import nn


class ConvNet(nn.Module):
    def __init__(self, channels, width, classes):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.condition = nn.Linear(1 + classes, width)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.register_buffer("milli", torch.tensor(1e-3), persistent=False)

    def forward(self, x, timestep, classes):
        from parts.activation import act

        onehot = nn.functional.one_hot(classes, self.condition.in_features - 1).float()
        condition = self.condition(torch.cat([self.milli * timestep[:, None], onehot], dim=1))
        return self.last(self.dropout(act(self.first(x) + condition[:, :, None, None])))
"""

ADAPTER = '''\
from typing import ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class Convolutions:
    """A ConvNet told our t as its timestep, 0 to 1000; -1000 is its null noise condition."""

    width: int = 4
    generates: ClassVar[bool] = True

    def fits(self, shape):
        pass

    def module(self, shape, num_classes, null_noise, seed=0):
        from convnet import ConvNet

        class Adapted(ConvNet):
            def forward(self, x, t, y):
                return super().forward(x, 1000 * t, y)

        return Adapted(shape[0], self.width, num_classes + 1)

    def loss(self, interpolant, predicts):
        return prediction_loss(interpolant, predicts)
'''

# As in the README: a U-Net of diffusers.
UNET = '''\
from typing import ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class UNet:
    """UNet2DModel of diffusers. t is 0 at data, 1 at noise, -1 for the null noise condition."""

    width: int = 16
    generates: ClassVar[bool] = True

    def fits(self, shape):
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"its two resolutions do not fit images of {shape[1]} x {shape[2]}")

    def module(self, shape, num_classes, null_noise, seed=0):
        from diffusers import UNet2DModel  # here, so that `check` and `status` need not wait for it

        class Net(UNet2DModel):
            def forward(self, x, t, y):  # y is the class, num_classes the null class
                return super().forward(x, 1000 * t, y).sample

        channels, blocks = shape[0], {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
        widths = {"block_out_channels": (self.width, 2 * self.width), "layers_per_block": 1, "norm_num_groups": 4}
        return Net(shape[1:], channels, channels, num_class_embeds=num_classes + 1, **widths, **blocks)

    def loss(self, interpolant, predicts):
        return prediction_loss(interpolant, predicts)
'''

SWEEP = """\
name: own
networks:
  conv:
    data: digits
    model: {use: ./adapter.py:Convolutions, width: 6}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
sampler: {name: euler, steps: 4}
sample: {count: 40, block: 10}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  late: {late: {use: ./guidance.py:LateNAG, scale: {grid: [1.0, 2.0]}}}
  later: {late: {use: ./guidance.py:LateNAG, scale: {grid: [1.0, 2.0]}, until: 0.3}, cfg: {scale: 1.5}, against: late}
"""

FILES = {
    "sweep.yaml": SWEEP,
    "guidance.py": GUIDANCE,
    "adapter.py": ADAPTER,
    "convnet.py": CONVNET,
    "parts/activation.py": "from torch.nn.functional import silu as act\n",
}


EVERYTHING = {
    "sweep.yaml": """\
name: everything
networks:
  sit:
    data: {use: ./all.py:Blobs, classes: 4}
    model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, noise_dropout: 0.2, class_dropout: 0.2}
  ft: {init: sit, data: {use: ./all.py:Blobs, classes: 4}, train: {steps: 2, batch: 16}}
sampler: {use: ./all.py:Thirds, steps: 2}
sample: {count: 20, block: 10}
score:
  features: [{use: ./all.py:Means}, pixels]
  metrics: [{use: ./all.py:Gap, power: 2}, fid]
arms:
  plain: {network: sit}
  tuned: {network: ft, sampler: {times: [0.5, 0.1]}}
""",
    "all.py": '''\
from typing import ClassVar

from nag.datasets import ArraySplit
from nag.metrics import Scores, plain
from nag.registry import Int, method
from nag.samplers.fixed_step import march, velocity


@method
class Blobs:
    """Class c is a bright square at c."""

    classes: Int = 3
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    stores: ClassVar[str] = "pixels"

    @property
    def num_classes(self):
        return self.classes

    def open(self, split):
        import numpy as np

        labels = np.arange(60 if split == "train" else 30) % self.classes
        rows, columns = np.indices((8, 8))
        return ArraySplit(np.where(rows // 2 == labels[:, None, None], 1.0, -1.0)[:, None], labels)


@method
class Thirds:
    steps: Int
    times: tuple[float, ...] = ()

    def network_calls(self):
        return self.steps + len(self.times)

    def __call__(self, field, y, noise, *, observe=None):
        grid = sorted({1.0, 0.0, *self.times, *(k / self.steps for k in range(self.steps))}, reverse=True)
        return march(self, field, y, noise, grid, observe)

    def step(self, field, x, y, t, t_next, draw):
        return x + (t_next - t) * velocity(field, x, y, t)


@method
class Means:
    outputs: ClassVar[tuple[str, ...]] = ("features", "rows")
    trained: ClassVar[bool] = True

    def train(self, split, report):
        import torch

        report(1, 1)
        return {"mean": torch.from_numpy(split.images(range(len(split)))).mean(dim=0)}

    def open(self, state, device="cpu"):
        def extract(images):
            rows = (images.to(device).float() / 127.5 - 1 - state["mean"].to(device)).mean(dim=3).flatten(1)
            return {"features": rows[:, :3], "rows": rows}

        return extract


@method
class Gap:
    power: Int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    names: ClassVar[tuple[str, ...]] = ("gap",)
    lower_is_better: ClassVar[dict[str, bool]] = {"gap": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False

    def __call__(self, samples, reference):
        gap = abs(samples["rows"].mean(0) - reference["rows"].mean(0)) ** self.power
        return Scores(values={"gap": plain(float(gap.sum()))}, arrays={})
''',
}


def laid_out(folder: Path, files: dict[str, str]) -> Path:
    """The files in a folder; the sweep's path."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "sweep.yaml"
