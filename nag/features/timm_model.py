"""Any timm network, pooled, with weights from a file; images are prepared by the network's own configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from nag.features.extractor import Extractor
from nag.features.resizing import PILLOW, Kind, check_images, resize
from nag.features.synthetic import SyntheticExtractor
from nag.pretrained import located, read_state
from nag.registry import method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    State = dict[str, Tensor]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation
WORDS: dict[Kind, str] = {"bicubic": "Pillow's bicubic, 8 bits", "pytorch_bicubic": "PyTorch's bicubic, not rounded"}


@method
class Timm(Extractor):
    """features (N, d): the output of the network without its classifier.

    The whole image is resized to the network's size (no crop, Pillow's filter, rounded to 8 bits) and normalised with
    its mean and standard deviation. Nothing is downloaded: `weights` is a file, safetensors or a state dict.
    model: timm's name of the architecture.
    """

    model: str
    weights: str

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {"weights": None}
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False

    def smoke(self) -> SyntheticExtractor:
        """Small random projections in its place: they need no weights."""
        return SyntheticExtractor(of="timm", outputs=self.outputs)

    def open(
        self, state: dict[str, Tensor] | None = None, device: Any = "cpu"
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function from uint8 (N, 1 or 3, H, W) to {"features": (N, d) float32}.

        Raises FileNotFoundError; ValueError for a model that timm does not have or whose input is not supported and,
        naming the file, for weights of another network. The function raises ValueError for images of another type.
        """
        from timm.data import resolve_model_data_config

        network = created(self.model, located(self.weights, self.weights), device)
        wanted = resolve_model_data_config(network)
        channels, height, width = wanted["input_size"]
        kind = wanted["interpolation"]
        if channels != 3 or height != width or kind not in PILLOW:
            raise ValueError(
                f"{self.model} wants {channels} channels of {height}x{width}, {kind}; nagbench cannot make them"
            )
        return extractor(network, height, kind, wanted["mean"], wanted["std"], device)


def prepared(size: int, kind: Kind, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """What `extractor` does to images, in words."""
    shown = (" ".join(f"{value:g}" for value in values) for values in (mean, std))
    return "{0}x{0}, {1}, no crop, mean {2}, std {3}".format(size, WORDS[kind], *shown)


def extractor(
    network: Any, size: int, kind: Kind, mean: tuple[float, ...], std: tuple[float, ...], device: Any
) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from uint8 (N, 1 or 3, H, W) to features. It resizes, scales to 0 .. 1 and normalises. Pillow's kinds
    of resizing round to 8 bits, as Pillow does.
    """
    import torch

    middle, spread = (torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (mean, std))

    def extract(images: Tensor) -> dict[str, Tensor]:
        check_images(images)
        x = resize(images.to(device), size, kind, quantised=kind in PILLOW).contiguous()
        with torch.no_grad():
            return {"features": network(x.div_(255).sub_(middle).div_(spread)).float()}

    return extract


def created(
    model: str,
    path: Path,
    device: Any,
    adapt: Callable[[State], State] = lambda state: state,
    embedding: int = 0,
    **arguments: Any,
) -> Any:
    """timm's network in eval mode, without its classifier, with the other weights of the file. `adapt` and then timm's
    own conversion are applied to them. embedding: for networks such as CLIP's, the width of the last projection, which
    is kept.

    Raises ValueError for a model that timm does not have and, naming the file, for weights of another network.
    """
    import timm

    from nag.seeding import seeded

    if not timm.is_model(model):
        raise ValueError(f"timm {timm.__version__} has no model {model!r}; see timm.list_models()")
    with seeded(0):
        network: Any = timm.create_model(model, pretrained=False, num_classes=embedding, **arguments)
    read = adapt(read_state(path))
    converted = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state)
    classifier = () if embedding else network.pretrained_cfg.get("classifier") or ()
    dropped = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        weights = {
            name: w for name, w in converted(read, network).items() if not (dropped and name.startswith(dropped))
        }
        network.load_state_dict(weights)
    except (RuntimeError, KeyError, AttributeError, AssertionError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(line if len(line) < 200 else f"{line[:200]} ..." for line in lines[1:3] or lines)
        raise ValueError(f"{path}: these are not weights of timm's {model}: {reason}") from error
    return network.to(device).eval()
