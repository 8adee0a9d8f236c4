"""Fixed random projections with the output names of another extractor: `--smoke` uses them in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from nag.features.extractor import Extractor
from nag.registry import method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SIDE, COLUMNS = 4, 8


def _tuple(value: Any) -> Any:
    """A list as a tuple, since JSON has only lists; strict validation judges the rest."""
    return tuple(value) if isinstance(value, list) else value


@method
class SyntheticExtractor(Extractor):
    """Each output has 8 columns: projections of the image resized to SIDE x SIDE. of: the extractor it replaces."""

    of: str = ""
    outputs: Annotated[tuple[str, ...], BeforeValidator(_tuple)] = ("features",)

    VERSION: ClassVar[int] = 1
    trained: ClassVar[bool] = False

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return dict.fromkeys(self.outputs, COLUMNS)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to the outputs, (N, 8) float32."""
        import torch

        from nag import noise

        drawn = noise.normal(0, range(len(self.outputs)), 0, (3 * SIDE * SIDE, COLUMNS))
        projections = dict(zip(self.outputs, torch.from_numpy(drawn).to(device), strict=True))

        def extract(images: Tensor) -> dict[str, Tensor]:
            x = images.to(device).float() / 127.5 - 1
            pooled = torch.nn.functional.adaptive_avg_pool2d(x, SIDE).flatten(1)
            return {name: pooled @ projection[: pooled.shape[1]] for name, projection in projections.items()}

        return extract
