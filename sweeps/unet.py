"""The class that sweeps/your_network.yaml names: it builds the U-Net of sweeps/train_unet.py."""

from __future__ import annotations

from typing import Any, ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class UNet:
    """UNet2DModel of diffusers, called with its own levels 0 to 999 and classes; the last class means "none"."""

    width: int = 16
    generates: ClassVar[bool] = True
    null_class: ClassVar[str] = "last"
    time_embedding: ClassVar[str] = "time_embedding"  # so a fine-tune can learn "no noise level"

    def fits(self, shape: tuple[int, int, int]) -> None:
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"its two resolutions do not fit images of {shape[1]} x {shape[2]}")

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> Any:
        from diffusers import UNet2DModel  # imported here to keep `check` and `status` fast

        class Net(UNet2DModel):
            def forward(self, x: Any, level: Any, y: Any) -> Any:
                return super().forward(x, level, y).sample

        return Net(
            sample_size=shape[1:],
            in_channels=shape[0],
            out_channels=shape[0],
            num_class_embeds=num_classes + 1,
            block_out_channels=(self.width, 2 * self.width),
            down_block_types=["DownBlock2D"] * 2,
            up_block_types=["UpBlock2D"] * 2,
            layers_per_block=1,
            norm_num_groups=4,
        )

    def loss(self, interpolant: Any, predicts: str) -> Any:
        return prediction_loss(interpolant, predicts)
