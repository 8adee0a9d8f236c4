"""Feature extractors turn stored images into named outputs, float32 with one row for each image: "features" (N, d)
and, if there are any, "logits" (N, classes) and "spatial" (N, d); or "colour" (N, 3) alone.

Add one: a file here with a class that has `outputs`, `trained` and `open` (and `train`, if it is trained), and a
line in `nag/registry.py`. `nag.registry.OPTIONAL` lists what it may leave out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Extractor(Protocol):
    trained: ClassVar[bool]
    reads: ClassVar[Literal["pixels", "latents"]] = "pixels"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, known without opening a file. A class attribute or a field."""
        ...

    @property
    def mode(self) -> str | None:
        """How it resizes images, if there is a choice."""
        return None

    @property
    def prepares(self) -> str | None:
        """How it prepares images: size, filter, crop, mean and standard deviation. Reports show it."""
        return None

    @property
    def distance_name(self) -> str | None:
        """The field's name for the Fréchet distance of its features: FID of Inception's, FD-DINOv2; by default "Fréchet
        distance (NAME)".
        """
        return None

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W); empty if they are not known in advance."""
        return {}

    def open(self, state: dict[str, Tensor] | None, device: Any = "cpu") -> Callable[[Tensor], dict[str, Tensor]]:
        """The function from uint8 images (N, C, H, W) to the outputs. state: the result of `train`."""
        ...


def columns(extractor: Any, shape: tuple[int, ...]) -> int:
    """Columns of all outputs together, for images (C, H, W); 0 if they are not known in advance."""
    dims = extractor.dims
    return sum(dims(shape).values()) if callable(dims) else 0  # a user's class may have a field named dims
