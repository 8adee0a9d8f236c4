"""SigLIP 2's image encoder (Tschannen et al., arXiv 2502.14786)."""

from __future__ import annotations

from typing import ClassVar, Literal

from nag.features.variants import Variant, Variants
from nag.pretrained import SIGLIP2_B16, SIGLIP2_L16, SIGLIP2_SO400M
from nag.registry import method


@method
class SigLIP2(Variants):
    """features (N, d): the output of the attention pooling, which is the image embedding, not normalised.

    Images are squashed to the network's square size, as open_clip and big_vision do it.
    model: its size. weights: a file; by default the one that `nagbench fetch` has brought.
    """

    model: Literal["So400m/14@224", "L/16@256", "B/16@256"] = "So400m/14@224"
    weights: str | None = None

    VERSION: ClassVar[int] = 1
    VARIANTS: ClassVar[dict[str, Variant]] = {
        "So400m/14@224": Variant("vit_so400m_patch14_siglip_224", SIGLIP2_SO400M, 224, 1152),
        "L/16@256": Variant("vit_large_patch16_siglip_256", SIGLIP2_L16, 256, 1024),
        "B/16@256": Variant("vit_base_patch16_siglip_256", SIGLIP2_B16, 256, 768),
    }
    NORMAL = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    distance_name: ClassVar[str] = "FD-SigLIP2"
