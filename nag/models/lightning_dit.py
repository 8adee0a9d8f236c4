"""LightningDiT (Yao et al., arXiv 2501.01423): DiT with RMSNorm, SwiGLU and rotary positions, for VA-VAE's latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nag.models.description import Generator
from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class LightningDiT(Generator):
    """The module has the names and shapes of the released weights, whose code is told 1 - t: load them with
    `time: 1 - t, predicts: velocity`. The released XL/1 is hidden 1152, depth 28, heads 16, patch 1.

    qk_norm: queries and keys are normalised. learned_variance: as in SiT, the first C of 2C channels are used.
    """

    qk_norm: bool = False

    VERSION: ClassVar[int] = 1
    BUILT_ON_CPU: ClassVar[bool] = True  # its initial weights are torch's own
    null_class: ClassVar[str] = "last"
    time_embedding: ClassVar[str] = "t_embedder"

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError unless patches tile H, W, which are equal, and a head has whole pairs for row and column."""
        Generator.fits(self, shape)
        if shape[1] != shape[2]:
            raise ValueError(f"its rotary positions are for square states, not {shape[1]} x {shape[2]}")
        if (self.hidden // self.heads) % 4:
            raise ValueError(f"heads of width {self.hidden // self.heads} have no whole pairs for row and column")

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network, `forward(x, time, y) -> velocity` by its own time, 0 noise and 1 data; without null noise."""
        from nag.models.lightning_module import LightningTransformer

        self.fits(shape)
        return LightningTransformer(self, shape, num_classes)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Mean squared error of the prediction."""
        from nag.losses import prediction_loss

        return prediction_loss(interpolant, predicts)
