"""pytorch-fid's Inception network, from its state dict: TensorFlow's weights of 2015-12-05 under PyTorch's names.

Source: github.com/mseitzer/pytorch-fid. It differs from torchvision's: its average pools do not count the padding, and
its last block has a max pool instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
# The branches of the blocks: each is a chain of convolutions; in E, one that ends in a key of FORK continues as two. A
# pooled branch comes last. Convolutions in HALVING have stride 2, those in UNPADDED no padding.
A = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
B = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
C = (
    ("branch1x1",),
    tuple(f"branch7x7_{i}" for i in (1, 2, 3)),
    tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
)
D = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
E = (("branch1x1",), ("branch3x3_1",), ("branch3x3dbl_1", "branch3x3dbl_2"))
FORK = {"branch3x3_1": ("branch3x3_2a", "branch3x3_2b"), "branch3x3dbl_2": ("branch3x3dbl_3a", "branch3x3dbl_3b")}

BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), A),
    "Mixed_6a": B,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), C),
    "Mixed_7a": D,
    **dict.fromkeys(("Mixed_7b", "Mixed_7c"), E),
}
HALVING = (
    "Conv2d_1a_3x3",
    "Mixed_6a.branch3x3",
    "Mixed_6a.branch3x3dbl_3",
    "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
)
UNPADDED = (*HALVING, "Conv2d_2a_3x3", "Conv2d_4a_3x3")
SPATIAL = "Mixed_6d.branch1x1"  # mixed_6/conv of TensorFlow's graph
BATCH_NORM_EPS = 1e-3


def opened(path: Path, device: Any) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A function from x (N, 3, 299, 299) in [-1, 1] to features (N, 2048), logits without bias (N, 1008) and the
    spatial map (N, 192, 17, 17). Raises ValueError, naming the file, for weights of another network.
    """
    import torch

    from nag.pretrained import read_state

    weights = read_state(path)
    try:
        folded = {name: _folded(weights, name) for name in _convolutions()}
        network = _Network({name: (w.to(device), b.to(device)) for name, (w, b) in folded.items()})
        classes = weights["fc.weight"].to(device, torch.float32)

        def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            features, spatial = network(x)
            return features, features @ classes.T, spatial

        with torch.no_grad():
            shapes = [tuple(out.shape) for out in run(torch.zeros(1, 3, 299, 299, device=device))]
    except KeyError as error:
        raise ValueError(f"{path}: these are not weights of pytorch-fid's Inception: {error} is missing") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: these are not weights of pytorch-fid's Inception: {reason}") from error
    if shapes[0] != (1, 2048) or shapes[1][0] != 1 or shapes[2] != (1, 192, 17, 17):
        raise ValueError(f"{path}: these are not weights of pytorch-fid's Inception: its outputs are {shapes}")
    return run


def _convolutions() -> list[str]:
    names = list(STEM)
    for block, branches in BLOCKS.items():
        for chain in branches:
            names += [f"{block}.{name}" for name in chain]
            names += [f"{block}.{name}" for name in FORK.get(chain[-1], ()) if branches is E]
        if branches in (A, C, E):
            names.append(f"{block}.branch_pool")
    return names


def _folded(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A convolution with its batch norm folded in, in float64: weight (out, in, h, w) and bias (out,), float32."""
    parts = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    gamma, beta, mean, variance = (weights[f"{name}.{part}"].double() for part in parts)
    scale = gamma / (variance + BATCH_NORM_EPS).sqrt()
    weight = weights[f"{name}.conv.weight"].double() * scale[:, None, None, None]
    return weight.float(), (beta - mean * scale).float()


class _Network:
    def __init__(self, weights: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.weights = weights

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and the spatial map (N, 192, 17, 17)."""
        import torch
        from torch.nn.functional import max_pool2d

        for name in STEM:
            x = self.convolution(name, x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = max_pool2d(x, 3, stride=2)
        spatial = x
        for block, branches in BLOCKS.items():
            outs = []
            for chain in branches:
                out = x
                for name in chain:
                    out = self.convolution(f"{block}.{name}", out)
                fork = FORK.get(chain[-1], ()) if branches is E else ()
                outs += [self.convolution(f"{block}.{name}", out) for name in fork] or [out]
                if f"{block}.{chain[-1]}" == SPATIAL:
                    spatial = out
            x = torch.cat([*outs, self.pooled(block, branches, x)], dim=1)
        return x.mean(dim=(2, 3)), spatial

    def convolution(self, name: str, x: Tensor) -> Tensor:
        from torch.nn.functional import conv2d

        weight, bias = self.weights[name]
        height, width = weight.shape[2:]
        padding = (0, 0) if name in UNPADDED else (height // 2, width // 2)
        return conv2d(x, weight, bias, stride=2 if name in HALVING else 1, padding=padding).relu_()

    def pooled(self, block: str, branches: Any, x: Tensor) -> Tensor:
        from torch.nn.functional import avg_pool2d, max_pool2d

        if branches in (B, D):
            return max_pool2d(x, 3, stride=2)
        last = block == "Mixed_7c"
        out = max_pool2d(x, 3, 1, 1) if last else avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.convolution(f"{block}.branch_pool", out)
