"""Checkpoints of the official DiT and SiT (github.com/facebookresearch/DiT, github.com/willisma/SiT), as people save
them: see `nag.weights` for the layouts.

What the network is, the names and shapes of its weights say, and the arguments of its training where the file has them.
Both are known before a tensor is read. What they cannot say (heads, for sizes not known) must be given.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.interpolants import GVP, LEVELS, VP, Interpolant, Linear, Prediction
from nag.models.description import widths_fit
from nag.models.dit import DiT
from nag.models.repa import REPA
from nag.models.sit import SiT
from nag.models.sizes import heads_of
from nag.models.weight_shapes import weight_shapes
from nag.weights import Weights, read_weights
from nag.weights.fit import differences
from nag.weights.stored import FLOATS, File, Stored

if TYPE_CHECKING:
    import torch

    from nag.field import NetworkField


class Family(NamedTuple):
    title: str
    model: type[DiT] | type[SiT] | type[REPA]
    interpolant: Interpolant
    predicts: Prediction


FAMILIES = {"dit": Family("DiT", DiT, VP(), "eps"), "sit": Family("SiT", SiT, Linear(), "velocity")}
FAMILIES["repa"] = Family("SiT of REPA", REPA, Linear(), "velocity")
PROJECTORS, OF_REPA = "projectors.", ("enc_type", "proj_coeff")  # weights, and arguments of its training, of REPA alone
ARCHITECTURE = ("hidden", "depth", "heads", "patch", "mlp_ratio", "learned_variance", "num_classes", "shape")
CLASSES, POSITIONS = "y_embedder.embedding_table.weight", "pos_embed"
NAMES = ("x_embedder.proj.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight", CLASSES)  # both families
VAE_FACTOR = 8  # pixels to a latent, in the official trainings


class OfficialNetwork(NamedTuple):
    """The contents of a checkpoint: the arguments of `nag.checkpoint.dump_network`."""

    weights: dict[str, torch.Tensor]
    model: Any
    interpolant: Interpolant
    predicts: Prediction
    shape: tuple[int, int, int]
    num_classes: int
    has_null_noise: bool
    has_null_class: bool


class Recognised(NamedTuple):
    """What a checkpoint says of its network before a tensor is read. shape: (C, H, W) of a state."""

    family: str
    weights: Weights
    model: DiT | SiT | REPA
    interpolant: Interpolant
    predicts: Prediction
    shape: tuple[int, int, int]
    num_classes: int
    has_null_noise: bool
    has_null_class: bool

    @property
    def words(self) -> str:
        """Such as "EMA weights (ema) of a training file; DiT, hidden 1152, depth 28, ..., null class"."""
        model, (channels, height, width) = self.model, self.shape
        size = f"hidden {model.hidden}, depth {model.depth}, heads {model.heads}, patch {model.patch}"
        named = {"learned variance": model.learned_variance, "null class": self.has_null_class}
        named["null noise"] = self.has_null_noise
        more = "".join(f", {word if has else f'no {word}'}" for word, has in named.items())
        states = f"states {channels} x {height} x {width}, {self.num_classes:,} classes"
        return f"{self.weights.layout}; {FAMILIES[self.family].title}, {size}, {states}{more}"

    def read(self) -> OfficialNetwork:
        """With its weights, in float32. A class table without a null class (it was never dropped) gets a row of zeros
        for it; fixed positions that were not saved are computed. Raises ValueError for a file that was cut off.
        """
        import torch

        state = {name: tensor.to(torch.float32, copy=True) for name, tensor in self.weights.state().items()}
        if not self.has_null_class:
            state[CLASSES] = torch.cat([state[CLASSES], torch.zeros_like(state[CLASSES][:1])])
        if POSITIONS not in state:
            from nag.models.transformer import positions

            (_, height, width), patch = self.shape, self.model.patch
            state[POSITIONS] = positions(height // patch, width // patch, self.model.hidden)
        return OfficialNetwork(state, *self[2:])


def read_official(
    file: File, family: str | None, source: str, key: str | Sequence[str] = (), **architecture: Any
) -> OfficialNetwork:
    """The network in an official checkpoint, with its weights; whether they are finite, `nag.checkpoint` checks.
    Arguments and errors are those of `recognise`.
    """
    return recognise(file, family, source, key, **architecture).read()


def recognise(
    file: File,
    family: str | None,
    source: str,
    key: str | Sequence[str] = (),
    states: tuple[int, int, int] | None = None,
    **architecture: Any,
) -> Recognised:
    """The network in an official checkpoint, from names, shapes and arguments alone.

    family: "dit", "sit" or "repa" (projectors are left out); None if the file says so itself. key: as in
    `read_weights`. architecture: of ARCHITECTURE, None is as if not given.
    states: (C, H, W) to assume for a file that does not show it. Raises ValueError that begins
    with `source` for anything that does not fit.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"{source}: unknown family {family!r}; known: {', '.join(FAMILIES)}")
    given = {name: value for name, value in architecture.items() if value is not None}
    for name in given:
        if name not in ARCHITECTURE:
            raise ValueError(f"{source}: unknown {name!r}; what may be given: {', '.join(ARCHITECTURE)}")
    weights = read_weights(file, key, NAMES, source)
    try:
        _shape(weights.tensors, NAMES[0], 4)
        family = family or _family(weights)
        weights = _without_projectors(weights, family)
        interpolant = _path(weights.arguments, FAMILIES[family])
        return _inferred(weights, family, interpolant, given, states)
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
    if family == "repa":  # told t and not 1 - t, an official SiT would look the same: its path is symmetric
        return None if bool(torch.isfinite(out).all()) else "what it predicts is not finite, so its weights are damaged"
    cosine = float((asked * answered).sum() / (asked.norm() * answered.norm()).clamp(min=1e-12))
    if not math.isfinite(cosine):
        return "what it predicts is not finite, so its weights are damaged or too large"
    if cosine > -0.8:
        return None
    other = next(FAMILIES[name].title for name in ("dit", "sit") if name != family)
    return f"it answers as a {other} does (correlation {cosine:.2f} with noise), not as a {FAMILIES[family].title}"


def _title(arguments: Mapping[str, Any]) -> str | None:
    """The family that the arguments of a training name, such as "SiT" of "SiT-XL/2"."""
    named = str(arguments.get("model", "")).partition("-")[0]
    return named if named in ("DiT", "SiT") else None


def _is_of_repa(weights: Weights) -> bool:
    return any(name.startswith(PROJECTORS) for name in weights.tensors) or any(
        argument in weights.arguments for argument in OF_REPA
    )


def _without_projectors(weights: Weights, family: str) -> Weights:
    """REPA's training aligns a layer through projectors, which sampling does not use. ValueError for other families."""
    if family != "repa":
        if _is_of_repa(weights):
            raise ValueError("it was trained with REPA, whose code is told t and not 1 - t: say family 'repa'")
        return weights
    kept = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(PROJECTORS)}
    if len(kept) == len(weights.tensors):
        return weights
    return dataclasses.replace(weights, tensors=kept, layout=f"{weights.layout}; its projectors are left out")


def _family(weights: Weights) -> str:
    if _is_of_repa(weights):
        return "repa"
    title = _title(weights.arguments)
    if title is None:
        raise ValueError(
            "it does not describe itself: the weights of a DiT and a SiT have the same names and shapes; "
            "give its family: dit or sit"
        )
    return title.lower()


def _path(arguments: Mapping[str, Any], family: Family) -> Interpolant:
    """The path on which it was trained; raises ValueError if the arguments of its training contradict `family`."""
    if family.model is REPA:
        return _path_of_repa(arguments)
    title = _title(arguments)
    if title not in (None, family.title):
        raise ValueError(f"its training was of a {arguments['model']}; say family {str(title).lower()!r}")
    if family.title != "SiT":
        return family.interpolant
    prediction, path = arguments.get("prediction", "velocity"), arguments.get("path_type", "Linear")
    paths: dict[Any, Interpolant] = {"Linear": Linear(), "GVP": GVP()}
    if prediction != "velocity" or not isinstance(path, str) or path not in paths:
        known = "velocity on Linear or GVP"
        raise ValueError(f"it was trained to predict {prediction} on the path {path}; of SiT's, {known} can be loaded")
    return paths[path]


def _path_of_repa(arguments: Mapping[str, Any]) -> Interpolant:
    prediction, path = arguments.get("prediction", "v"), arguments.get("path_type", "linear")
    paths: dict[Any, Interpolant] = {"linear": Linear(), "cosine": GVP()}
    if prediction != "v" or not isinstance(path, str) or path not in paths:
        known = "v on linear or cosine"
        raise ValueError(f"it was trained to predict {prediction} on the path {path}; of REPA's, {known} can be loaded")
    return paths[path]


def _inferred(
    weights: Weights, family: str, interpolant: Interpolant, given: dict[str, Any], states: Any = None
) -> Recognised:
    """The network of these weights. Raises ValueError if there is none, or they contradict what was given."""
    tensors = weights.tensors
    hidden, channels, patch, _ = _shape(tensors, "x_embedder.proj.weight", 4)
    inner = _shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0]
    out, extra = divmod(_shape(tensors, "final_layer.linear.weight", 2)[0], max(1, patch * patch))
    if extra or out not in (channels, 2 * channels) or min(hidden, channels, patch) < 1:
        raise ValueError(f"its last layer fits neither {channels} channels in patches of {patch} nor twice as many")
    fields: dict[str, Any] = {
        "hidden": hidden,
        "depth": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        "patch": patch,
        "learned_variance": out == 2 * channels,
        # of the plain quotient, rounding may lose the last unit
        "mlp_ratio": inner / hidden if int(inner / hidden * hidden) == inner else (inner + 0.5) / hidden,
    }
    for name, value in fields.items():
        if name in given and given[name] != value:
            raise ValueError(f"{name} {given[name]} was given, but its weights have {value}")
    heads = _heads(given.get("heads", heads_of(hidden, fields["depth"])), hidden, fields["depth"])
    rows = _shape(tensors, CLASSES, 2)[0]
    classes = given.get("num_classes", rows - 1)
    if classes not in (rows, rows - 1) or rows < 1:
        raise ValueError(f"num_classes {classes} was given, but its class table has {rows} rows, one of the null class")
    network = Recognised(
        family=family,
        weights=weights,
        model=FAMILIES[family].model(heads=heads, **fields),
        interpolant=interpolant,
        predicts=FAMILIES[family].predicts,
        shape=_state(channels, patch, tensors, given.get("shape"), _size_said(weights.arguments, channels) or states),
        num_classes=classes,
        has_null_noise="null_noise" in tensors,
        has_null_class=classes == rows - 1,
    )
    _check_all(network)
    return network


def _check_all(network: Recognised) -> None:
    """Raise ValueError unless the file has exactly the network's weights, all of floating point."""
    tensors = network.weights.tensors
    rows = network.num_classes - (not network.has_null_class)  # weight_shapes adds one of the null class
    shapes = weight_shapes(network.model, network.shape, rows, network.has_null_noise)
    if POSITIONS not in tensors:
        del shapes[POSITIONS]
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS and name in shapes:
            raise ValueError(f"weight {name} is of {tensor.dtype}, not of floating point")
    wanted = {name: (shape, "") for name, shape in shapes.items()}
    different = differences(wanted, {name: (tensor.shape, "") for name, tensor in tensors.items()})
    if different is not None:
        raise ValueError(f"these weights do not fit: {different}")


def _heads(heads: Any, hidden: int, depth: int) -> int:
    if heads is None:
        raise ValueError(f"hidden {hidden}, depth {depth} is not a known size; weights do not show heads: give heads")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"heads must be a whole number, at least 1, not {heads!r}")
    widths_fit(hidden, heads, 1.0)
    return heads


def _state(
    channels: int, patch: int, tensors: Mapping[str, Stored], given: Any, otherwise: Any
) -> tuple[int, int, int]:
    """(C, H, W) of a state: square, unless given. otherwise: that of a network that was saved without positions."""
    if POSITIONS not in tensors:
        shape = given or otherwise
        if shape is None:
            raise ValueError("it has no pos_embed, which would show the size of its states: give shape: [C, H, W]")
        if len(shape) != 3 or shape[0] != channels or not all(type(n) is int and 0 < n < 2**16 for n in shape):
            raise ValueError(f"it has {channels} channels, but shape {tuple(shape)} was given")
        return tuple(shape)
    patches = _shape(tensors, POSITIONS, 3)[1]
    side = math.isqrt(patches) * patch
    shape = (channels, side, side) if given is None else tuple(given)
    if len(shape) != 3 or shape[0] != channels or shape[1] * shape[2] != patches * patch**2:
        asked = "which make no square: give shape=(C, H, W)" if given is None else f"but shape {shape} was given"
        raise ValueError(f"it has {channels} channels and {patches} patches of {patch} x {patch}, {asked}")
    return shape


def _size_said(arguments: Mapping[str, Any], channels: int) -> tuple[int, int, int] | None:
    """The states of an official training, which has latents, by the size of its images."""
    side = arguments.get("image_size")
    return (channels, side // VAE_FACTOR, side // VAE_FACTOR) if type(side) is int and side >= VAE_FACTOR else None


def _shape(tensors: Mapping[str, Stored], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors:
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(f"not the weights of a DiT or SiT: {name} is not there; there is {some}, ...")
    shape = tensors[name].shape
    if len(shape) != dimensions:
        raise ValueError(f"not the weights of a DiT or SiT: {name} has shape {shape}")
    return shape
