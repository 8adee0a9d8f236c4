"""A TorchScript file with the interface of `inception-2015-12-05.pt` and a small network of random weights.

The interface is what clean-fid, StyleGAN and others call: `file(img, return_features, use_fp16, no_output_bias)` takes
pixels in 0 .. 255 of any size, resizes them as TensorFlow 1 does and scales them by (x - 128) / 128; `layers` is a
sequence with these names, of which `mixed_6` has a first branch `conv`, with 17x17 output; `output` is a linear layer.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution, batch norm without scale, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5)
        self.beta = nn.Parameter(0.2 * torch.randn(outputs))
        self.register_buffer("mean", 0.1 * torch.randn(outputs))
        self.register_buffer("var", 1 + 0.2 * torch.rand(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.conv2d(x, self.weight.to(x.dtype), stride=self.stride, padding=self.padding)
        return torch.relu(torch.batch_norm(x, None, self.beta, self.mean, self.var, False, 0.1, 1e-3, False))


class Mixed(nn.Module):
    def __init__(self, inputs: int, first: int, second: int, stride: int = 1) -> None:
        super().__init__()
        kernel = 3 if stride == 2 else 1
        self.conv = Conv(inputs, first, kernel, stride)
        self.tower = nn.Sequential(OrderedDict(conv=Conv(inputs, second), conv_1=Conv(second, second, kernel, stride)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x)], dim=1)


class InceptionLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                conv=Conv(3, 8, 3, stride=2),
                conv_1=Conv(8, 8, 3),
                conv_2=Conv(8, 8, 3, padding=1),
                pool0=nn.MaxPool2d(3, stride=2),
                conv_3=Conv(8, 8),
                conv_4=Conv(8, 8, 3),
                pool1=nn.MaxPool2d(3, stride=2),
                mixed=Mixed(8, 4, 4),
                mixed_1=Mixed(8, 4, 4),
                mixed_2=Mixed(8, 4, 4),
                mixed_3=Mixed(8, 16, 16, stride=2),
                mixed_4=Mixed(32, 16, 16),
                mixed_5=Mixed(32, 16, 16),
                mixed_6=Mixed(32, 12, 20),
                mixed_7=Mixed(32, 16, 16),
                mixed_8=Mixed(32, 16, 16, stride=2),
                mixed_9=Mixed(32, 16, 16),
                mixed_10=Mixed(32, 1024, 1024),
                pool2=nn.AvgPool2d(8),
            )
        )
        self.output = nn.Linear(2048, 1008)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        batch, channels, height, width = img.shape
        x = img.to(torch.float16 if use_fp16 else torch.float32)
        theta = torch.eye(2, 3, device=x.device)
        theta[0, 2] += theta[0, 0] / width - theta[0, 0] / 299
        theta[1, 2] += theta[1, 1] / height - theta[1, 1] / 299
        theta = theta.to(x.dtype).unsqueeze(0).repeat([batch, 1, 1])
        grid = torch.nn.functional.affine_grid(theta, [batch, channels, 299, 299], align_corners=False)
        x = torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        x = (x - 128) / 128
        features = self.layers(x).reshape(-1, 2048).to(torch.float32)
        if return_features:
            return features
        logits = torch.nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return torch.softmax(logits, dim=1)


def network(seed: int = 0) -> InceptionLike:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InceptionLike().eval()


def state_dict(seed: int = 0) -> dict[str, Tensor]:
    """pytorch-fid's names and shapes, which are torchvision's, with weights that keep the scale of their input."""
    from torchvision.models import inception_v3

    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        described = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    state = {}
    for name, meta in described.items():
        normal = torch.randn(meta.shape, generator=generator)
        if meta.ndim == 4:
            state[name] = normal * (2 / meta[0].numel()) ** 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(meta.shape, dtype=meta.dtype)
        else:
            state[name] = 0.1 * normal + (1 if name.endswith(("bn.weight", "running_var")) else 0)
    return state


def save(module: nn.Module, path: Path) -> Path:
    """Write a module as TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        torch.jit.script(module).save(str(path))
    return path
