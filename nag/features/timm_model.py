"""Any timm network, pooled, with weights from a file; images are prepared by the network's own configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from nag.features.extractor import Extractor
from nag.features.resizing import Kind, check_images, resize
from nag.features.synthetic import SyntheticExtractor
from nag.pretrained import located, read_state
from nag.registry import method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    State = dict[str, Tensor]


@method
class Timm(Extractor):
    """features (N, d): the output of the network without its classifier.

    The whole image is resized to the network's size (no crop, Pillow's filter, rounded to 8 bits) and normalised with
    its mean and standard deviation. Nothing is downloaded: `weights` is a file, safetensors or a state dict.
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
        if channels != 3 or height != width or kind not in get_args(Kind):
            raise ValueError(f"{self.model} wants {channels} channels of {height}x{width}, {kind}; nagbench gives none")
        return extractor(network, height, kind, wanted["mean"], wanted["std"], device)


def extractor(
    network: Any, size: int, kind: Kind, mean: tuple[float, ...], std: tuple[float, ...], device: Any
) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from uint8 (N, 1 or 3, H, W), resized as Pillow does, scaled to 0 .. 1 and normalised, to features."""
    import torch

    middle, spread = (torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (mean, std))

    def extract(images: Tensor) -> dict[str, Tensor]:
        check_images(images)
        x = resize(images.to(device), size, kind, quantised=True).contiguous()
        with torch.no_grad():
            return {"features": network(x.div_(255).sub_(middle).div_(spread)).float()}

    return extract


def created(
    model: str, path: Path, device: Any, adapt: Callable[[State], State] = lambda state: state, **arguments: Any
) -> Any:
    """timm's network in eval mode, without classifier, with all the file's other weights, after `adapt` and timm's own
    conversion.

    Raises ValueError for a model that timm does not have and, naming the file, for weights of another network.
    """
    import timm

    from nag.seeding import seeded

    if not timm.is_model(model):
        raise ValueError(f"timm {timm.__version__} has no model {model!r}; see timm.list_models()")
    with seeded(0):
        network: Any = timm.create_model(model, pretrained=False, num_classes=0, **arguments)
    read = adapt(read_state(path))
    converted = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state)
    classifier = network.pretrained_cfg.get("classifier") or ()
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
