"""An autoencoder without weights: its latents are means of blocks of pixels. Smoke runs use it in place of a VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

SPREAD = 0.05  # standard deviation of the posterior


@method
class BlockMeans:
    """Each block of `side` x `side` pixels has four latent channels: its mean red, green and blue, and how much lighter
    its left half is than its right half. A decoded block has one colour.

    side: of a block, in pixels.
    """

    side: Annotated[Int, Field(ge=2, le=64)] = 2

    VERSION: ClassVar[int] = 1

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images (3, H, W). Raises ValueError for images that do not fit."""
        channels, height, width = shape
        if channels != 3:
            raise ValueError(f"the images have {channels} channels, block_means takes 3")
        if height % self.side or width % self.side:
            raise ValueError(f"images of {height} x {width} are not a multiple of {self.side}, as block_means needs")
        return 4, height // self.side, width // self.side

    def open(self, device: str = "cpu") -> OpenBlockMeans:
        return OpenBlockMeans(self.side, device)


class OpenBlockMeans:
    def __init__(self, side: int, device: str) -> None:
        self.side, self.device = side, device

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 4, h, w) -> images (N, 3, H, W) float32 in [-1, 1]."""
        colours = latents[:, :3].to(self.device).float().clamp(-1, 1)
        return colours.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W) in [-1, 1] -> mean and standard deviation of the posterior, (N, 4, h, w) float32."""
        import torch

        x = images.to(self.device).float()
        n, _, height, width = x.shape
        blocks = x.reshape(n, 3, height // self.side, self.side, width // self.side, self.side).transpose(3, 4)
        grey, half = blocks.mean(1), self.side // 2
        slope = grey[..., :half].mean((-1, -2)) - grey[..., -half:].mean((-1, -2))
        mean = torch.cat([blocks.mean((-1, -2)), slope[:, None]], dim=1)
        return mean, torch.full_like(mean, SPREAD)
