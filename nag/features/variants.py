"""The base of extractors whose network comes in several sizes: the field `model` names one, each with its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from nag.features.extractor import Extractor
from nag.features.resizing import Kind
from nag.features.synthetic import SyntheticExtractor
from nag.features.timm_model import created, extractor, prepared
from nag.pretrained import located
from nag.registry import name_of

if TYPE_CHECKING:
    from torch import Tensor


class Variant(NamedTuple):
    architecture: str  # timm's
    file: str  # its weights, in nag.pretrained.KNOWN
    size: int  # of its images, pixels
    columns: int  # of its features


class _File:
    """A method's `FILES`: the weights of the first variant on the class, of its own on an instance."""

    def __get__(self, instance: Variants | None, owner: type[Variants]) -> dict[str, str]:
        return {"weights": (next(iter(owner.VARIANTS.values())) if instance is None else instance.variant).file}


class Variants(Extractor):
    """features (N, d): timm's network without its classifier. The whole image is resized, normalised and not cropped.

    The weights are the published file of the variant or any other of the same network, also timm's safetensors.
    """

    VARIANTS: ClassVar[Mapping[str, Variant]]
    NORMAL: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]  # mean and standard deviation of the channels
    projects: ClassVar[bool] = False  # the features are those after the network's last projection
    FILES: ClassVar[Any] = _File()
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False
    model: Any
    weights: str | None

    @property
    def variant(self) -> Variant:
        return self.VARIANTS[self.model]

    @property
    def kind(self) -> Kind:
        """How images are resized."""
        return "bicubic"

    @property
    def prepares(self) -> str:
        return prepared(self.variant.size, self.kind, *self.NORMAL)

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"features": self.variant.columns}

    def smoke(self) -> SyntheticExtractor:
        """Small random projections in its place: they need no weights."""
        return SyntheticExtractor(of=name_of(self), outputs=self.outputs)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu", **arguments: Any
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to {"features": (N, d) float32}. arguments: of timm.create_model.

        Raises FileNotFoundError without the weights and ValueError, naming the file, for weights of another network;
        the function raises ValueError for images of another type.
        """
        variant = self.variant
        path = located(self.weights, variant.file)
        embedding = arguments.pop("embedding", variant.columns) if self.projects else 0
        network = created(variant.architecture, path, device, embedding=embedding, **arguments)
        return extractor(network, variant.size, self.kind, *self.NORMAL, device)
