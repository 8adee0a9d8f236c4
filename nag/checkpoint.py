"""Networks as files: our own are safetensors, with the network's description as JSON in the header.

Official ones are read by `nag.official`. No pickle is ever run.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.locations import check_regular
from nag.models import seeded
from nag.registry import build, name_of, source_of

if TYPE_CHECKING:
    import torch

    from nag.field import NetworkField
    from nag.noise_level import Estimator
    from nag.official import Network

ModelOf = Callable[[Mapping[str, Any]], Any]

FORMAT = "nagbench-network-1"
KEY = "nagbench"  # our only key in a header: safetensors writes several in no fixed order


def metadata(data: bytes) -> dict[str, str]:
    """The string table in a safetensors header. Raises ValueError if `data` is not of that format."""
    if len(data) < 8:
        raise ValueError("not a safetensors file: shorter than its header")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise ValueError("not a safetensors file, or cut off: the header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError("not a safetensors file: its header is not JSON") from error
    return header.get("__metadata__", {}) if isinstance(header, dict) else {}


def dump_network(
    weights: dict[str, torch.Tensor],
    *,
    model: Any,
    interpolant: Any,
    predicts: str,
    shape: tuple[int, ...],
    num_classes: int,
    has_null_noise: bool,
    has_null_class: bool,
) -> bytes:
    """The file of a network: weights by name, and all that `load_network` needs to build it again."""
    from safetensors.torch import save

    source = source_of(model)
    description = {
        "model": {"name": name_of(model), "fields": asdict(model)} | ({"source": source} if source else {}),
        "interpolant": {"name": name_of(interpolant), "fields": asdict(interpolant)},
        "predicts": predicts,
        "shape": list(shape),
        "num_classes": num_classes,
        "has_null_noise": has_null_noise,
        "has_null_class": has_null_class,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(tensors, metadata={KEY: json.dumps({"format": FORMAT, "network": description}, sort_keys=True)})


def described_model(described: Mapping[str, Any]) -> Any:
    """The model that the file of a network names. Raises ValueError for one of somebody's own code."""
    if "source" in described:
        name, source = described["name"], described["source"][:12]
        raise ValueError(f"its model {name!r} is of somebody's own code ({source}), known to the sweep that trained it")
    return build("models", described["name"], **described["fields"])


def parse(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> tuple[torch.nn.Module, Any, Any, dict[str, Any]]:
    """Module, model, interpolant and description. Raises ValueError, naming `source`, for what `dump_network` did not
    make. model_of: gives the model from its description.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header = json.loads(metadata(data).get(KEY, "{}"))
        weights = load(data)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{source}: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{source}: not a network of nagbench (format {header.get('format')!r}, wanted {FORMAT!r})")
    description = header["network"]
    try:
        model = model_of(description["model"])
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    interpolant = build("interpolants", description["interpolant"]["name"], **description["interpolant"]["fields"])
    module = module_of(
        model,
        weights,
        shape=tuple(description["shape"]),
        num_classes=description["num_classes"],
        has_null_noise=description["has_null_noise"],
        source=source,
    )
    return module.to(device).eval(), model, interpolant, description


def module_of(
    model: Any,
    weights: dict[str, torch.Tensor],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    has_null_noise: bool,
    source: str,
) -> torch.nn.Module:
    """The module that `model` describes, of these weights. ValueError if they are not its own, all of them, finite."""
    import torch

    # Of a module that is not ours not all need be in its weights, so it is made in earnest.
    with torch.device("cpu" if source_of(model) else "meta"), seeded(0):
        module = model.module(shape, num_classes, null_noise=has_null_noise)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        raise ValueError(f"{source}: these weights do not fit: {_differences(wanted, found)}")
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{source}: weight {name} is not finite: it has NaN or infinite values")
    module.load_state_dict(weights, assign=True)
    return module


def _differences(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """The first few shapes by name that are missing, unknown or others."""
    words = [f"{name} is missing" for name in wanted if name not in found]
    words += [f"{name} is not known" for name in found if name not in wanted]
    both = [name for name in wanted if name in found and wanted[name] != found[name]]
    words += [f"{name} has shape {found[name]}, not {wanted[name]}" for name in both]
    return "; ".join(words[:5]) + (f"; and {len(words) - 5} more" if len(words) > 5 else "")


def parse_network(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> NetworkField:
    """The generator in a file made by `dump_network`. Raises ValueError, naming `source`, for anything else."""
    from nag.field import NetworkField

    module, model, interpolant, description = parse(data, device, source, model_of)
    if not model.generates:
        raise ValueError(f"{source}: a {name_of(model)} network estimates, it does not generate")
    return NetworkField(
        module,
        interpolant=interpolant,
        predicts=description["predicts"],
        shape=tuple(description["shape"]),
        num_classes=description["num_classes"],
        has_null_noise=description["has_null_noise"],
        has_null_class=description["has_null_class"],
    )


def parse_estimator(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> Estimator:
    """The noise-level estimator in a file made by `dump_network`. Raises ValueError for anything else."""
    from nag.noise_level import Estimator

    module, model, interpolant, description = parse(data, device, source, model_of)
    if model.generates:
        raise ValueError(f"{source}: a {name_of(model)} network generates, it does not estimate noise levels")
    return Estimator(module, interpolant, tuple(description["shape"]))


def load_network(path: str | Path, family: str | None = None, **architecture: Any) -> NetworkField:
    """A network as a field `field(x, t, y)`, on the CPU.

    A checkpoint of nagbench describes itself. Of an official one, say the family, "dit" or "sit"; what its weights do
    not show may be given: heads (if its size is not one of `nag.models.sizes`), shape (C, H, W) (if not square),
    num_classes (if it was trained without a null class). Whatever is given must agree with the weights.
    Raises ValueError naming the file and what is wrong with it, FileNotFoundError if it is not there.
    """
    path = Path(path)
    check_regular(path)
    if family is not None:
        return _official(path, family, str(path), architecture)[1]
    if architecture:
        raise ValueError(f"{path}: for {', '.join(architecture)}, say the family too: dit or sit")
    data = path.read_bytes()
    _describes_itself(data, str(path))
    return parse_network(data, source=str(path))


def own_form(data: bytes, family: str | None = None, source: str = "checkpoint", **architecture: Any) -> bytes:
    """The file of the same network as `dump_network` writes it, checked as by `load_network`; ours stays as it is."""
    if family is not None:
        return dump_network(**_official(data, family, source, architecture)[0]._asdict())
    _describes_itself(data, source)
    parse(data, source=source)
    return data


def _describes_itself(data: bytes, source: str) -> None:
    from nag.official import is_pickle

    if is_pickle(data):
        raise ValueError(f"{source}: a file of torch.save does not say what it is; say its family: dit or sit")


def _official(
    file: Path | bytes, family: str, source: str, architecture: dict[str, Any]
) -> tuple[Network, NetworkField]:
    from nag.field import NetworkField
    from nag.official import contradicts, read_official

    network = read_official(file, family, source, **architecture)
    module = module_of(
        network.model,
        network.weights,
        shape=network.shape,
        num_classes=network.num_classes,
        has_null_noise=network.has_null_noise,
        source=source,
    )
    field = NetworkField(
        module.eval(),
        interpolant=network.interpolant,
        predicts=network.predicts,
        shape=network.shape,
        num_classes=network.num_classes,
        has_null_noise=network.has_null_noise,
        has_null_class=network.has_null_class,
    )
    reason = contradicts(field, family)
    if reason is not None:
        raise ValueError(f"{source}: {reason}")
    return network, field
