"""The network of examples/foreign_checkpoint.yaml: `module` is a lab's own code, the rest says how to call it."""

from __future__ import annotations

from typing import Any, ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class FlowNet:
    """A residual MLP over pixels. Its time is 0 at noise and 1 at data; the class `num_classes` means "no class"."""

    width: int = 256
    blocks: int = 4
    generates: ClassVar[bool] = True
    null_class: ClassVar[str] = "last"  # so CFG is possible
    time_embedding: ClassVar[str] = "time"  # so a fine-tune can teach "no noise level", for NAG

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Images of any size."""

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> Any:
        import torch  # here, so that `check` stays fast
        from torch import nn

        width, blocks, size = self.width, self.blocks, shape[0] * shape[1] * shape[2]
        linear, swish = nn.Linear, nn.SiLU

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.time = nn.Sequential(linear(1, width), swish(), linear(width, width))
                self.label = nn.Embedding(num_classes + 1, width)
                self.inner = linear(size, width)
                self.blocks = nn.ModuleList(
                    nn.Sequential(linear(width, width), swish(), linear(width, width)) for _ in range(blocks)
                )
                self.out = linear(width, size)

            def forward(self, x: Any, time: Any, y: Any) -> Any:  # (N, C, H, W), (N,), (N,) -> (N, C, H, W)
                told = self.time(time[:, None]) + self.label(y)
                h = self.inner(x.flatten(1))
                for block in self.blocks:
                    h = h + block(h + told)
                return self.out(torch.nn.functional.silu(h)).view_as(x)

        return Net()

    def loss(self, interpolant: Any, predicts: str) -> Any:
        return prediction_loss(interpolant, predicts)
