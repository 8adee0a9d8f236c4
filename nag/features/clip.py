"""CLIP's image encoder (Radford et al., ICML 2021), OpenAI's weights: the network of CMMD and of FD-CLIP."""

from __future__ import annotations

from typing import ClassVar, Literal

from nag.features.resizing import Kind
from nag.features.variants import Variant, Variants
from nag.pretrained import CLIP_B32, CLIP_L14_336
from nag.registry import method


@method
class CLIP(Variants):
    """features (N, 768 or 512): the image embedding after the projection, not normalised.

    mode: `clip` resizes as OpenAI's preprocessing does (Pillow's bicubic); its centre crop is nothing for square
    images. `cmmd` resizes as the code of CMMD does (PyTorch's bicubic, without antialiasing, neither rounded nor
    clipped), which is another image wherever the size changes.

    The weights are open_clip's or timm's file of OpenAI's network (QuickGELU). OpenAI's own download is a TorchScript
    archive, which is program code and is not read.
    model: its size. weights: a file; by default the one that `nagbench fetch` has brought.
    """

    model: Literal["ViT-L/14@336px", "ViT-B/32"] = "ViT-L/14@336px"
    weights: str | None = None
    mode: Literal["clip", "cmmd"] = "clip"

    VERSION: ClassVar[int] = 1
    VARIANTS: ClassVar[dict[str, Variant]] = {
        "ViT-L/14@336px": Variant("vit_large_patch14_clip_quickgelu_336", CLIP_L14_336, 336, 768),
        "ViT-B/32": Variant("vit_base_patch32_clip_quickgelu_224", CLIP_B32, 224, 512),
    }
    NORMAL = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    projects: ClassVar[bool] = True
    distance_name: ClassVar[str] = "FD-CLIP"

    @property
    def kind(self) -> Kind:
        return "pytorch_bicubic" if self.mode == "cmmd" else "bicubic"
