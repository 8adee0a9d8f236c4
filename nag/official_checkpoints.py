"""Checkpoints of the official DiT and SiT (github.com/facebookresearch/DiT, github.com/willisma/SiT), as they are.

A plain state dict, or a training file with "ema" or "model"; read as tensors only (`weights_only`), so that no code in
a file can run. What the network is, its weights say; what they cannot say (heads, for sizes not known) must be given.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.interpolants import GVP, LEVELS, VP, Interpolant, Linear, Prediction
from nag.models.description import widths_fit
from nag.models.dit import DiT
from nag.models.sit import SiT
from nag.models.sizes import heads_of
from nag.torch_files import DAMAGED, PICKLE, ZIP, is_pickle

if TYPE_CHECKING:
    import torch

    from nag.field import NetworkField


class Family(NamedTuple):
    title: str
    model: type[DiT] | type[SiT]
    interpolant: Interpolant
    predicts: Prediction


FAMILIES = {"dit": Family("DiT", DiT, VP(), "eps"), "sit": Family("SiT", SiT, Linear(), "velocity")}
ARCHITECTURE = ("hidden", "depth", "heads", "patch", "mlp_ratio", "learned_variance", "num_classes", "shape")
CLASSES = "y_embedder.embedding_table.weight"


class OfficialNetwork(NamedTuple):
    """The contents of a checkpoint: the arguments of `nag.checkpoint.dump_network`."""

    weights: dict[str, torch.Tensor]
    model: DiT | SiT
    interpolant: Interpolant
    predicts: Prediction
    shape: tuple[int, int, int]
    num_classes: int
    has_null_noise: bool
    has_null_class: bool


def read_official(file: Path | bytes, family: str, source: str, **architecture: Any) -> OfficialNetwork:
    """The network in an official checkpoint. `architecture`: of ARCHITECTURE, None is as if not given.

    Raises ValueError that begins with `source` for anything that does not fit; it is not checked here whether every
    weight is there, and finite (`nag.checkpoint` does so when it builds the module).
    """
    if family not in FAMILIES:
        raise ValueError(f"{source}: unknown family {family!r}; known: {', '.join(FAMILIES)}")
    given = {key: value for key, value in architecture.items() if value is not None}
    for key in given:
        if key not in ARCHITECTURE:
            raise ValueError(f"{source}: unknown {key!r}; what may be given: {', '.join(ARCHITECTURE)}")
    weights, trained_as = _weights(_loaded(file, source), source)
    try:
        interpolant = _said(trained_as, FAMILIES[family])
        return _inferred(weights, FAMILIES[family], interpolant, given)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def contradicts(field: NetworkField, family: str) -> str | None:
    """Why weights that were loaded as `family` behave like the other one, although all shapes are the same.

    DiT and SiT embed their time alike, DiT's 0 is data and SiT's 0 noise. Asked about noise, the other family's network
    gives the opposite of what it is taken for. Correlated over differences of two states, so that means do not count.
    """
    import torch

    from nag import noise

    t = 1 / LEVELS if family == "dit" else 1.0 - (LEVELS - 1)  # official time 0 of a SiT, level 999 of a DiT
    device = next(field.module.parameters()).device
    x = torch.from_numpy(noise.normal(0, [0, 1], 0, field.shape)).to(device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    out = field(x, torch.full((2,), t, device=device), y)[:, : field.shape[0]]
    asked, answered = (v[0] - v[1] for v in (x, out))
    cosine = float((asked * answered).sum() / (asked.norm() * answered.norm()).clamp(min=1e-12))
    if not math.isfinite(cosine):
        return "what it predicts is not finite, so its weights are damaged or too large"
    if cosine > -0.8:
        return None
    other = next(f.title for name, f in FAMILIES.items() if name != family)
    return f"it answers as a {other} does (correlation {cosine:.2f} with noise), not as a {FAMILIES[family].title}"


def _loaded(file: Path | bytes, source: str) -> Any:
    import torch

    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(len(PICKLE))
    else:
        start = file[: len(PICKLE)]
    if not is_pickle(start):
        raise ValueError(
            f"{source}: not a file of torch.save: it begins with {start!r} (a checkpoint of nagbench has no family)"
        )
    opened_as = file if isinstance(file, Path) else io.BytesIO(file)
    is_zip = start.startswith(ZIP)
    if is_zip and not zipfile.is_zipfile(opened_as):
        raise ValueError(f"{source}: the file is cut off: its end is missing; copy it again and compare its size")
    if isinstance(opened_as, io.BytesIO):
        opened_as.seek(0)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # "args" of official training files: plain values
            mapped = is_zip and isinstance(file, Path)  # an optimizer's state is then never read
            return torch.load(opened_as, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the Python object {match[1]}" if match else "something that is not a tensor"
        raise ValueError(
            f"{source}: it holds {what}, and reading that could run code; only tensors are read. "
            "Where you trust it, write its weights anew: torch.save(model.state_dict(), path)"
        ) from None
    except DAMAGED as error:
        reason = next(iter(str(error).splitlines()), "it ends too early")
        raise ValueError(f"{source}: the file is cut off, damaged, or of another kind: {reason}") from error


def _weights(loaded: Any, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict, and the training arguments that the file holds."""
    import torch

    said: dict[str, Any] = {}
    if isinstance(loaded, dict) and (isinstance(loaded.get("ema"), dict) or isinstance(loaded.get("model"), dict)):
        args = loaded.get("args")
        said = dict(vars(args)) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {}
        loaded = loaded["ema"] if isinstance(loaded.get("ema"), dict) else loaded["model"]
    if not isinstance(loaded, dict):
        raise ValueError(f"{source}: it holds a {type(loaded).__name__}, not a state dict")
    odd = [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if odd or not loaded:
        problem = f"beside weights it holds {', '.join(odd[:5])}" if odd else "it is empty"
        raise ValueError(f'{source}: not a state dict, nor a training file with "ema" or "model": {problem}')
    return dict(loaded), said


def _said(trained_as: dict[str, Any], family: Family) -> Interpolant:
    """The path on which it was trained; raises ValueError if the arguments of its training contradict `family`."""
    title = str(trained_as.get("model", family.title)).partition("-")[0]
    if title != family.title and title in [f.title for f in FAMILIES.values()]:
        raise ValueError(f"its training was of a {trained_as['model']}; say family {title.lower()!r}")
    if family.title != "SiT":
        return family.interpolant
    prediction, path = trained_as.get("prediction", "velocity"), trained_as.get("path_type", "Linear")
    paths: dict[Any, Interpolant] = {"Linear": Linear(), "GVP": GVP()}
    if prediction != "velocity" or path not in paths:
        known = "velocity on Linear or GVP"
        raise ValueError(f"it was trained to predict {prediction} on the path {path}; of SiT's, {known} can be loaded")
    return paths[path]


def _inferred(
    weights: dict[str, torch.Tensor], family: Family, interpolant: Interpolant, given: dict[str, Any]
) -> OfficialNetwork:
    """The network of these weights. Raises ValueError if there is none, or they contradict what was given."""
    hidden, channels, patch, _ = _shape(weights, "x_embedder.proj.weight", 4)
    inner = _shape(weights, "blocks.0.mlp.fc1.weight", 2)[0]
    out, extra = divmod(_shape(weights, "final_layer.linear.weight", 2)[0], patch * patch)
    if extra or out not in (channels, 2 * channels):
        raise ValueError(f"its last layer fits neither {channels} channels in patches of {patch} nor twice as many")
    fields: dict[str, Any] = {
        "hidden": hidden,
        "depth": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "patch": patch,
        "learned_variance": out == 2 * channels,
        # of the plain quotient, rounding may lose the last unit
        "mlp_ratio": inner / hidden if int(inner / hidden * hidden) == inner else (inner + 0.5) / hidden,
    }
    for key, value in fields.items():
        if key in given and given[key] != value:
            raise ValueError(f"{key} {given[key]} was given, but its weights have {value}")
    heads = _heads(given.get("heads", heads_of(hidden, fields["depth"])), hidden, fields["depth"])
    shape = _state(channels, _shape(weights, "pos_embed", 3)[1], patch, given.get("shape"))
    rows = _shape(weights, CLASSES, 2)[0]
    classes = given.get("num_classes", rows - 1)
    if classes not in (rows, rows - 1):
        raise ValueError(f"num_classes {classes} was given, but its class table has {rows} rows, one of the null class")
    return OfficialNetwork(
        weights=_float32(weights, without_null_class=classes == rows),
        model=family.model(heads=heads, **fields),
        interpolant=interpolant,
        predicts=family.predicts,
        shape=shape,
        num_classes=classes,
        has_null_noise="null_noise" in weights,
        has_null_class=classes == rows - 1,
    )


def _heads(heads: Any, hidden: int, depth: int) -> int:
    if heads is None:
        raise ValueError(f"hidden {hidden}, depth {depth} is not a known size; weights do not show heads: give heads")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"heads must be a whole number, at least 1, not {heads!r}")
    widths_fit(hidden, heads, 1.0)
    return heads


def _state(channels: int, patches: int, patch: int, given: Any) -> tuple[int, int, int]:
    """(C, H, W) of a state: square, unless given."""
    side = math.isqrt(patches) * patch
    shape = (channels, side, side) if given is None else tuple(given)
    if len(shape) != 3 or shape[0] != channels or shape[1] * shape[2] != patches * patch**2:
        asked = "which make no square: give shape=(C, H, W)" if given is None else f"but shape {shape} was given"
        raise ValueError(f"it has {channels} channels and {patches} patches of {patch} x {patch}, {asked}")
    return shape


def _float32(weights: dict[str, torch.Tensor], without_null_class: bool) -> dict[str, torch.Tensor]:
    """Copies of the weights. A class table that has no null class (it was never dropped) gets a row of zeros for it."""
    import torch

    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise ValueError(f"weight {name} is of {weight.dtype}, not of floating point")
    named = {name: weight.to(torch.float32, copy=True) for name, weight in weights.items()}
    if without_null_class:
        named[CLASSES] = torch.cat([named[CLASSES], torch.zeros_like(named[CLASSES][:1])])
    return named


def _shape(weights: dict[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in weights:
        some = ", ".join(sorted(weights)[:3])
        raise ValueError(f"not the weights of a DiT or SiT: {name} is not there; there is {some}, ...")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"not the weights of a DiT or SiT: {name} has shape {shape}")
    return shape
