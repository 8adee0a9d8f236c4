"""Feature extractors: stored images in, named outputs out, all float32 and one row an image: "features" (N, d), and
where there are any, "logits" (N, classes) and "spatial" (N, d).

Add one: a file here with a class that has `outputs`, `trained` and `open` (and `train`, where it is trained), and a
line in `nag/registry.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Extractor(Protocol):
    trained: ClassVar[bool]
    # One that has `distance_name` says how the field calls FID on it, such as FD-DINOv2.

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives, known without opening a file. An attribute of the class, or a field."""

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]: ...
