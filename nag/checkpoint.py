"""Networks as files: safetensors, with the network's description as JSON in the header. No pickle is ever read."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.registry import build, name_of

if TYPE_CHECKING:
    import torch

    from nag.field import NetworkField
    from nag.noise_level import Estimator

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

    description = {
        "model": {"name": name_of(model), "fields": asdict(model)},
        "interpolant": {"name": name_of(interpolant), "fields": asdict(interpolant)},
        "predicts": predicts,
        "shape": list(shape),
        "num_classes": num_classes,
        "has_null_noise": has_null_noise,
        "has_null_class": has_null_class,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(tensors, metadata={KEY: json.dumps({"format": FORMAT, "network": description}, sort_keys=True)})


def _parse(data: bytes, device: str, source: str) -> tuple[torch.nn.Module, Any, Any, dict[str, Any]]:
    """Module, model, interpolant and description. Raises ValueError, naming `source`, for what `dump_network` did not
    make.
    """
    import torch
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
    model = build("models", description["model"]["name"], **description["model"]["fields"])
    interpolant = build("interpolants", description["interpolant"]["name"], **description["interpolant"]["fields"])
    with torch.device("meta"):
        module = model.module(
            tuple(description["shape"]), description["num_classes"], null_noise=description["has_null_noise"]
        )
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"{source}: these weights are missing, unknown or of another shape: {', '.join(wrong)}")
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{source}: weight {name} is not finite")
    module.load_state_dict(weights, assign=True)
    return module.to(device).eval(), model, interpolant, description


def parse_network(data: bytes, device: str = "cpu", source: str = "checkpoint") -> NetworkField:
    """The generator in a file made by `dump_network`. Raises ValueError, naming `source`, for anything else."""
    from nag.field import NetworkField

    module, model, interpolant, description = _parse(data, device, source)
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


def parse_estimator(data: bytes, device: str = "cpu", source: str = "checkpoint") -> Estimator:
    """The noise-level estimator in a file made by `dump_network`. Raises ValueError for anything else."""
    from nag.noise_level import Estimator

    module, model, interpolant, description = _parse(data, device, source)
    if model.generates:
        raise ValueError(f"{source}: a {name_of(model)} network generates, it does not estimate noise levels")
    return Estimator(module, interpolant, tuple(description["shape"]))


def load_network(path: str | Path, family: str | None = None, **architecture: Any) -> NetworkField:
    """Load a network of nagbench's own format as a field `field(x, t, y)`.

    `family` and `architecture` describe checkpoints that do not describe themselves; this version reads only files
    that do. Raises ValueError naming the file and what is wrong with it, FileNotFoundError if it is not there.
    """
    if family is not None or architecture:
        raise ValueError(f"{path}: this version reads only nagbench's own checkpoints, which need no family or sizes")
    return parse_network(Path(path).read_bytes(), source=str(path))
