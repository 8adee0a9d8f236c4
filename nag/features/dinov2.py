"""DINOv2's ViT-L/14, the network of FD-DINOv2 (Stein et al. 2023, "Exposing flaws of generative model evaluation")."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from nag.features.extractor import Extractor
from nag.features.synthetic import SyntheticExtractor
from nag.features.timm_model import IMAGENET, created, extractor, prepared
from nag.pretrained import DINOV2 as FILE
from nag.pretrained import located
from nag.registry import method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ARCHITECTURE = "vit_large_patch14_dinov2"
SIZE, PATCH = 224, 14
MEAN, STD = IMAGENET
OFFSET = 0.1  # dinov2's interpolate_offset


@method
class DINOv2(Extractor):
    """features (N, 1024): the class token after the last norm.

    As in dgm-eval, the whole image is resized to 224x224 as Pillow does it (bicubic, 8 bits) and normalised with
    ImageNet's mean and standard deviation. The weights are the official file or timm's safetensors of the same network.
    weights: a file; by default the one that `nagbench fetch` has brought.
    """

    weights: str | None = None

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {"weights": FILE}
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False
    prepares: ClassVar[str] = prepared(SIZE, "bicubic", MEAN, STD)
    distance_name: ClassVar[str] = "FD-DINOv2"  # the field's name for FID on these features

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"features": 1024}

    def smoke(self) -> SyntheticExtractor:
        """Small random projections in its place: they need no weights."""
        return SyntheticExtractor(of="dinov2", outputs=self.outputs)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to {"features": (N, 1024) float32}.

        Raises FileNotFoundError without the weights and ValueError, naming the file, for weights of another network;
        the function raises ValueError for images of another type.
        """
        return opened(ARCHITECTURE, located(self.weights, FILE), device)


def opened(architecture: str, path: Path, device: Any, **arguments: Any) -> Callable[[Tensor], dict[str, Tensor]]:
    """The same function with timm's network `architecture` for DINOv2. arguments: of timm.create_model."""
    network = created(architecture, path, device, adapt=_placed, img_size=SIZE, **arguments)
    return extractor(network, SIZE, "bicubic", MEAN, STD, device)


def _placed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the position embedding for 224x224 as dinov2 interpolates it; timm's differs.

    Both interpolate the 37x37 positions of 518x518 bicubically to 16x16. dinov2 scales by 16.1 / 37 and without
    antialiasing (facebookresearch/dinov2, models/vision_transformer.py, interpolate_pos_encoding).
    """
    import torch
    from torch.nn.functional import interpolate

    positions, grid = weights.get("pos_embed"), SIZE // PATCH
    if positions is None or positions.ndim != 3:
        return weights
    side = math.isqrt(positions.shape[1] - 1)
    if side**2 != positions.shape[1] - 1 or side == grid:
        return weights
    token, patches = positions[:, :1].float(), positions[:, 1:].float()
    patches = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = interpolate(patches, scale_factor=(grid + OFFSET) / side, mode="bicubic")
    return {**weights, "pos_embed": torch.cat([token, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)}
