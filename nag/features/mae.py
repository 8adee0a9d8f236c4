"""MAE's encoder (He et al., CVPR 2022), pretrained and not fine-tuned, as in dgm-eval's FD-MAE."""

from __future__ import annotations

from typing import ClassVar, Literal

from nag.features.timm_model import IMAGENET
from nag.features.variants import Variant, Variants
from nag.pretrained import MAE_B, MAE_H, MAE_L
from nag.registry import method


@method
class MAE(Variants):
    """features (N, d): the class token after the last norm, as dgm-eval takes it. The weights are the official file of
    the encoder or timm's safetensors.

    model: its size. weights: a file; by default the one that `nagbench fetch` has brought.
    """

    model: Literal["L/16", "B/16", "H/14"] = "L/16"
    weights: str | None = None

    VERSION: ClassVar[int] = 1
    VARIANTS: ClassVar[dict[str, Variant]] = {
        "L/16": Variant("vit_large_patch16_224", MAE_L, 224, 1024),
        "B/16": Variant("vit_base_patch16_224", MAE_B, 224, 768),
        "H/14": Variant("vit_huge_patch14_224", MAE_H, 224, 1280),
    }
    NORMAL = IMAGENET
    distance_name: ClassVar[str] = "FD-MAE"
