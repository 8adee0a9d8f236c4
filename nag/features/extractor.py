"""Feature extractors: stored images in, named outputs out, all float32 and one row an image: "features" (N, d), and
where there are any, "logits" (N, classes) and "spatial" (N, d).

Add one: a file here with a class that has `outputs`, `trained` and `open` (and `train`, where it is trained), and a
line in `nag/registry.py`. `nag.registry.OPTIONAL` has what it may leave out.
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
        """Names of what it gives, known without opening a file. An attribute of the class, or a field."""
        ...

    @property
    def mode(self) -> str | None:
        """How it resizes, where there are several ways."""
        return None

    @property
    def distance_name(self) -> str | None:
        """What the field calls FID on it, such as FD-DINOv2."""
        return None

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W); empty where they are not known beforehand."""
        return {}

    def open(self, state: dict[str, Tensor] | None, device: Any = "cpu") -> Callable[[Tensor], dict[str, Tensor]]:
        """The function from uint8 images (N, C, H, W) to the outputs. state: what `train` gave."""
        ...


def columns(extractor: Any, shape: tuple[int, ...]) -> int:
    """Columns of all outputs together, for images (C, H, W); 0 where they are not known beforehand."""
    dims = extractor.dims
    return sum(dims(shape).values()) if callable(dims) else 0  # a user's class may have a field of this name
