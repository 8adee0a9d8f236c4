"""The pixels themselves as features: a second opinion that depends on no network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from nag.features.extractor import Extractor
from nag.registry import method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@method
class Pixels(Extractor):
    """Flattened pixels in [-1, 1]. On digits three of the 64 pixels never change, so the covariance is singular."""

    VERSION: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"features": math.prod(shape)}

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, C, H, W) to {"features": (N, C H W) float32}; ValueError for other types."""

        def extract(images: Tensor) -> dict[str, Tensor]:
            import torch

            if images.dtype != torch.uint8 or images.ndim != 4:
                raise ValueError(f"images must be uint8 (N, C, H, W); got {images.dtype} {tuple(images.shape)}")
            return {"features": images.to(device).flatten(1).float() / 127.5 - 1}

        return extract
