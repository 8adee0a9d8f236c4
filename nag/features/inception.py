"""Inception v3 of 2015-12-05, the network of FID, in clean-fid's three modes, with the outputs that sFID and IS need.

It comes in two files: the TorchScript file of StyleGAN2-ADA (fetched for clean and legacy_tensorflow) and the state
dict of pytorch-fid and torch-fidelity (fetched for legacy_pytorch). Sources: Parmar et al. 2022 (clean-fid); Dhariwal
and Nichol 2021, evaluations/evaluator.py (ADM).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nag.features.extractor import Extractor
from nag.features.resizing import Kind, check_images, resize
from nag.features.synthetic import SyntheticExtractor
from nag.pretrained import INCEPTION, PYTORCH_FID, located
from nag.registry import method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Network = Callable[["Tensor"], tuple["Tensor", "Tensor", "Tensor"]]  # (N, 3, 299, 299) -> features, logits, spatial

SIZE = 299
RESIZE: dict[str, Kind] = {"clean": "bicubic", "legacy_tensorflow": "tensorflow", "legacy_pytorch": "pytorch"}
WORDS = {
    "clean": "Pillow's bicubic",
    "legacy_tensorflow": "TensorFlow 1's bilinear",
    "legacy_pytorch": "PyTorch's bilinear",
}
PICKLE = b"\x80\x02"  # the first bytes of what torch.save wrote before it wrote zip files
SPATIAL_LAYER, SPATIAL_CHANNELS = "mixed_6", 7
OTHER = "not the TorchScript file of Inception, 2015-12-05"
AGREEMENT = 1e-3  # largest relative difference between the file run layer by layer and run whole


class _File:
    """A method's `FILES`: of the default mode on the class, of its own mode on an instance."""

    def __get__(self, instance: Inception | None, owner: type[Inception]) -> dict[str, str]:
        legacy = instance is not None and instance.mode == "legacy_pytorch"
        return {"weights": PYTORCH_FID if legacy else INCEPTION}


@method
class Inception(Extractor):
    """features (N, 2048): the last pooled layer. logits (N, 1008): without the bias, as the Inception Scores of ADM and
    StyleGAN use them. spatial (N, 2023): the first 7 channels of mixed_6/conv in the order height, width, channel, as
    in ADM's `mu_s` and `sigma_s`.

    mode: `clean` resizes as Pillow does; `legacy_tensorflow` as TensorFlow 1 does, which is ADM's protocol;
    `legacy_pytorch` as pytorch-fid does.
    weights: a file of either kind; by default the one that `nagbench fetch` has brought.
    """

    weights: str | None = None
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"] = "clean"

    VERSION: ClassVar[int] = 1
    distance_name: ClassVar[str] = "FID"
    FILES: ClassVar[Any] = _File()
    outputs: ClassVar[tuple[str, ...]] = ("features", "logits", "spatial")
    trained: ClassVar[bool] = False

    @property
    def prepares(self) -> str:
        return f"{SIZE}x{SIZE}, {WORDS[self.mode]}, not rounded, no crop"

    def dims(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Columns of the outputs, for images (C, H, W)."""
        return {"features": 2048, "logits": 1008, "spatial": 2023}

    def smoke(self) -> SyntheticExtractor:
        """Small random projections in its place: they need no weights."""
        return SyntheticExtractor(of="inception", outputs=self.outputs)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to the outputs, float32, on the device.

        Raises FileNotFoundError without the weights and ValueError, naming the file, for weights of another network;
        the function raises ValueError for images of another type.
        """
        path = located(self.weights, self.FILES["weights"])
        legacy = self.mode == "legacy_pytorch"
        network = (_state_dict if _holds_state_dict(path, legacy) else _torchscript)(path, device)
        center, scale = (127.5, 127.5) if legacy else (128.0, 128.0)

        def extract(images: Tensor) -> dict[str, Tensor]:
            check_images(images)
            x = resize(images.to(device), SIZE, RESIZE[self.mode]).contiguous()
            features, logits, spatial = network(x.sub_(center).div_(scale))
            return {"features": features, "logits": logits, "spatial": _flat(spatial)}

        return extract


def _flat(spatial: Tensor) -> Tensor:
    """(N, channels, 17, 17) to (N, 2023): the first 7 channels, with the channel varying fastest."""
    return spatial[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).contiguous()


def _holds_state_dict(path: Path, otherwise: bool) -> bool:
    """Whether a file is a state dict rather than TorchScript; `otherwise` for what is neither."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("/constants.pkl") for name in archive.namelist())
    with open(path, "rb") as file:
        return file.read(len(PICKLE)) == PICKLE or otherwise


def _state_dict(path: Path, device: Any) -> Network:
    import torch

    from nag.features.pytorch_fid import opened

    return torch.no_grad()(opened(path, device))


def _torchscript(path: Path, device: Any) -> Network:
    """The network in StyleGAN2-ADA's file, run layer by layer because the whole has no output for the spatial map.

    The file is recognised by its interface: `file(img, return_features, use_fp16, no_output_bias)` resizes, scales and
    runs `layers` in order, then `output`. That the layers agree with the whole is checked here on one image.
    """
    import torch

    from nag.features.torchscript_file import load, plainly, reason

    file = load(path, device)
    try:
        layers, classes = dict(file.layers.named_children()), file.output.weight.float()
        at, branch = list(layers).index(SPATIAL_LAYER), layers[SPATIAL_LAYER].conv
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {OTHER}: {reason(error)}") from None
    chain = list(layers.values())

    def network(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with plainly():
            for layer in chain[:at]:
                x = layer(x)
            spatial = branch(x)
            for layer in chain[at:]:
                x = layer(x)
            features = x.flatten(1)
            return features, features @ classes.T, spatial

    pixels = torch.arange(3 * 40 * 56, device=device).reshape(1, 3, 40, 56) * 37 % 256
    try:
        with plainly():
            whole = file(pixels.float(), return_features=True).flatten(1), file(pixels.float(), no_output_bias=True)
        features, logits, spatial = network((resize(pixels.to(torch.uint8), SIZE, "tensorflow") - 128).div_(128))
        parts = features, logits.softmax(dim=1)
    except (RuntimeError, TypeError) as error:
        if "memory" in str(error):
            raise
        raise ValueError(f"{path}: {OTHER}: {reason(error)}") from error
    shapes = tuple(features.shape), tuple(_flat(spatial).shape)
    if shapes != ((1, 2048), (1, 2023)):
        raise ValueError(f"{path}: {OTHER}: the shapes of its features and spatial features are {shapes}")
    for what, part, of_whole in zip(("features", "class probabilities"), parts, whole, strict=True):
        off = float((part - of_whole).norm() / of_whole.norm())
        if not off <= AGREEMENT:
            raise ValueError(
                f"{path}: {OTHER}: its layers, run one by one, give {what} {off:.1e} off those of the whole"
            )
    return network
