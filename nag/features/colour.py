"""How contrasted, how colourful and how clipped an image is: three numbers, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nag.features.extractor import Extractor
from nag.registry import method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@method
class Colour(Extractor):
    """colour (N, 3), each in 0 .. 1: contrast, the standard deviation of the luma over the pixels (RMS contrast);
    saturation, the mean over the pixels of the largest minus the smallest channel (the chroma of HSV); clipped, the
    share of channel values at 0 or 255.
    """

    VERSION: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("colour",)
    trained: ClassVar[bool] = False
    prepares: ClassVar[str] = "pixels as they are"

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"colour": 3}

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to {"colour": (N, 3) float32}; ValueError for other types."""
        import torch

        from nag.features.resizing import as_rgb

        weights = torch.tensor(LUMA, device=device)[:, None, None]

        def extract(images: Tensor) -> dict[str, Tensor]:
            x = as_rgb(images.to(device))
            clipped = ((x == 0) | (x == 255)).flatten(1).float().mean(1)
            saturation = (x.amax(1) - x.amin(1)).flatten(1).float().mean(1) / 255
            contrast = (x.float() * weights).sum(1).flatten(1).std(1, correction=0) / 255
            return {"colour": torch.stack([contrast, saturation, clipped], dim=1)}

        return extract
