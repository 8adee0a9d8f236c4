"""Feature extractors: stored images in, named outputs out ("features" (N, d), "logits" (N, classes)), all float32.

Add one: a file here with a class that has `outputs`, `trained` and `open` (and `train`, where it is trained), and a
line in `nag/registry.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Extractor(Protocol):
    outputs: ClassVar[tuple[str, ...]]
    trained: ClassVar[bool]

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]: ...
