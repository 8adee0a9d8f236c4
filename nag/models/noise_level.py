"""g_phi(t | x): which noise level does a state look like? (arXiv 2510.12497: the estimator that shows the noise
shift)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import pydantic

from nag.models.checks import patches_fit, widths_fit
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@method
class NoiseLevel:
    """The generators' transformer without its noise and class inputs; its last layer gives a posterior over the level.

    The posterior is over `bins` equal parts of [0, 1]. hidden, depth, heads, patch, mlp_ratio: as for `sit`.
    """

    hidden: Annotated[Int, pydantic.Field(ge=4)]
    depth: Annotated[Int, pydantic.Field(ge=1)]
    heads: Annotated[Int, pydantic.Field(ge=1)]
    patch: Annotated[Int, pydantic.Field(ge=1)]
    mlp_ratio: Annotated[float, pydantic.Field(gt=0)] = 4.0
    bins: Annotated[Int, pydantic.Field(ge=2, le=10_000)] = 100

    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = False

    @pydantic.model_validator(mode="after")
    def _widths_fit(self) -> Self:
        widths_fit(self.hidden, self.heads, self.mlp_ratio)
        return self

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError if the network cannot be built for states of this shape (C, H, W)."""
        patches_fit(self.patch, shape)

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """A new network on the CPU, `forward(x (N, C, H, W)) -> logits (N, bins)`; num_classes, null_noise are not
        used.
        """
        from nag.models.transformer import LevelTransformer, built

        self.fits(shape)
        return built(
            lambda: LevelTransformer(
                shape=shape,
                hidden=self.hidden,
                depth=self.depth,
                heads=self.heads,
                patch=self.patch,
                inner=int(self.hidden * self.mlp_ratio),
                bins=self.bins,
            ),
            seed,
        )

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Cross entropy of the posterior and the bin in which the level lies."""
        from nag.losses import level_loss

        return level_loss(interpolant, self.bins)

    def smoke(self) -> NoiseLevel:
        """A network as small as can be with the same patches and bins: to see that everything connects."""
        return NoiseLevel(hidden=8, depth=1, heads=2, patch=self.patch, bins=self.bins)
