"""ConvNeXt V2 (Woo et al., CVPR 2023), fine-tuned on ImageNet-22k and ImageNet-1k."""

from __future__ import annotations

from typing import ClassVar, Literal

from nag.features.timm_model import IMAGENET
from nag.features.variants import Variant, Variants
from nag.pretrained import CONVNEXT_V2_B, CONVNEXT_V2_L
from nag.registry import method


@method
class ConvNeXtV2(Variants):
    """features (N, d): the average over positions, after the norm before the classifier. The weights are the official
    file or timm's safetensors.

    model: its size. weights: a file; by default the one that `nagbench fetch` has brought.
    """

    model: Literal["L", "B"] = "L"
    weights: str | None = None

    VERSION: ClassVar[int] = 1
    VARIANTS: ClassVar[dict[str, Variant]] = {
        "L": Variant("convnextv2_large", CONVNEXT_V2_L, 224, 1536),
        "B": Variant("convnextv2_base", CONVNEXT_V2_B, 224, 1024),
    }
    NORMAL = IMAGENET
    distance_name: ClassVar[str] = "FD-ConvNeXt-V2"
