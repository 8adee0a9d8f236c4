"""Any network in a TorchScript file, for extractors that this package does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from nag.features.extractor import Extractor
from nag.features.resizing import check_images, resize
from nag.features.synthetic import SyntheticExtractor
from nag.features.torchscript_file import load, plainly, reason
from nag.pretrained import located
from nag.registry import Int, method

if TYPE_CHECKING:
    from torch import Tensor


def _tuple(value: Any) -> Any:
    """A list as a tuple, since JSON and YAML have only lists; strict validation judges the rest."""
    return tuple(value) if isinstance(value, list) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple), Field(min_length=1)]


@method
class TorchScript(Extractor):
    """The network is called with x (N, channels, size, size) float32 and returns the outputs named in `outputs`: one
    tensor, a tuple of tensors in that order, or a dict with those names. Each is flattened to (N, d).

    x = (low + (high - low) pixels / 255 - mean) / std, with (low, high) = range and a mean and std for each channel, or
    for all. Without `size` images keep theirs; else the whole image is resized as Pillow does, with antialiasing.
    A TorchScript file can run code: use only files from people you trust.
    path: the file. resize: the filter. channels: 1 for grey images. range: what pixels 0 and 255 become. mean, std:
    what is subtracted and divided by.
    """

    path: str
    outputs: Names = ("features",)
    size: Annotated[Int, Field(ge=1, le=8192)] | None = None
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    channels: Literal[1, 3] = 3
    range: Annotated[Numbers, Field(min_length=2, max_length=2)] = (0.0, 1.0)
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {"path": None}
    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if "features" not in self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise ValueError(f"outputs must be different names and have 'features' among them; got {self.outputs}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} must have 1 or {self.channels} values; got {values}")
        if not min(self.std) > 0:
            raise ValueError(f"std must be above 0; got {self.std}")

    def smoke(self) -> SyntheticExtractor:
        """Small random projections in its place: they need no file."""
        return SyntheticExtractor(of="torchscript", outputs=self.outputs)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to the outputs, (N, d) float32.

        Raises FileNotFoundError, and ValueError, naming the file, if it is not TorchScript; the function raises
        ValueError for images that the network cannot take and if the network does not return `outputs`.
        """
        import torch

        network = load(located(self.path, self.path), device)
        mean, std = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        low, high = self.range

        def extract(images: Tensor) -> dict[str, Tensor]:
            check_images(images)
            if self.channels == 1 and images.shape[1] != 1:
                raise ValueError(f"{self.path} is for grey images (channels: 1); got {tuple(images.shape)}")
            pixels = images.to(device)
            x = resize(pixels, self.size, self.resize) if self.size else pixels.expand(-1, 3, -1, -1).float()
            x = (low + (high - low) / 255 * x[:, : self.channels] - mean) / std
            try:
                with plainly():
                    given = network(x)
            except RuntimeError as error:
                if "memory" in str(error):
                    raise
                shape = tuple(x.shape)
                raise ValueError(f"{self.path}: the network cannot take images {shape}: {reason(error)}") from error
            return self._named(given, len(images))

        return extract

    def _named(self, given: Any, n: int) -> dict[str, Tensor]:
        import torch

        if isinstance(given, torch.Tensor):
            given = (given,)
        if isinstance(given, dict):
            tensors = {name: given[name] for name in self.outputs if name in given}
            what = f"a dict of {', '.join(map(str, given))}"
        else:
            tensors = dict(zip(self.outputs, given, strict=False)) if isinstance(given, Sequence) else {}
            what = f"{len(given)} tensors" if isinstance(given, Sequence) else f"a {type(given).__name__}"
        if len(tensors) < len(self.outputs):
            raise ValueError(f"{self.path}: its outputs should be {', '.join(self.outputs)}; the network gives {what}")
        for name, value in tensors.items():
            if not isinstance(value, torch.Tensor) or value.ndim < 2 or len(value) != n:
                shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                wanted = "(N, d), one row for each image"
                raise ValueError(f"{self.path}: {name} should be {wanted}; for {n} images it is {shape}")
        return {name: value.flatten(1).float() for name, value in tensors.items()}
