"""Networks as files: our own are safetensors, with the network's description as JSON in the header.

Those of other programs are read by `nag.official_checkpoints`. No pickle is ever run.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag import header
from nag.header import FORMAT, KEY, Description, Listed
from nag.locations import irregular
from nag.models.adapted import Adapted, built_on_cpu, unadapted
from nag.models.convention import Convention
from nag.models.description import Role, role
from nag.models.sit import SiT
from nag.registry import name_of, source_of
from nag.seeding import seeded
from nag.weights.fit import Kind, differences
from nag.weights.stored import File, opened

if TYPE_CHECKING:
    import torch

    from nag.estimator import Estimator, Residual
    from nag.field import NetworkField
    from nag.foreign_checkpoints import Foreign
    from nag.official_checkpoints import OfficialNetwork

ModelOf = Callable[[Mapping[str, Any]], Any]


def metadata(data: bytes) -> dict[str, str]:
    """The string table in a safetensors header. Raises ValueError if `data` is not of that format, or is damaged."""
    return header.read(io.BytesIO(data), len(data)).strings


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
    """The file of a network: its weights, and the description from which `load_network` builds it."""
    from safetensors.torch import save

    convention = {"convention": model.convention.described()} if isinstance(model, Adapted) else {}
    model = unadapted(model)
    source = source_of(model)
    description = convention | {
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
    """The model that the file of a network names. Raises ValueError if its class is user code."""
    method = header.Described.model_validate(dict(described))
    if method.source is not None:
        name, source = method.name, method.source[:12]
        raise ValueError(f"its model {name!r} is user code ({source}), which only the sweep that trained it has")
    return header.built("models", method)


def parse(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> tuple[torch.nn.Module, Any, Any, Description]:
    """Module, model, interpolant and description. Raises ValueError, naming `source`, if `dump_network` did not
    write it. model_of: builds the model from its description.
    """
    listed, built = _built(io.BytesIO(data), len(data), source, model_of)
    return _filled(data, listed, built, device, source)


Built = tuple["torch.nn.Module", Any, Any, Description]


def _built(file: Any, size: int, source: str, model_of: ModelOf) -> tuple[Listed, Built]:
    """What a header describes, checked against the tensors that it lists; the module of our own models has no weights
    yet. No tensor is read.
    """
    try:
        listed = header.read(file, size)
        description = header.described(listed)
        model = model_of(description.model.model_dump(exclude_none=True))
        if source_of(model) is None:
            header.no_deeper(model, listed.tensors)
        interpolant = header.built("interpolants", description.interpolant)
        if description.convention is not None:
            model = Adapted(model, Convention.of(description.convention), interpolant, description.predicts)
        module = _skeleton(model, description.state, description.num_classes, description.has_null_noise)
        _fits(module, {name: (tuple(one.shape), header.TORCH[one.dtype]) for name, one in listed.tensors.items()})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return listed, (module, model, interpolant, description)


def _filled(data: bytes, listed: Listed, built: Built, device: str, source: str) -> Built:
    from safetensors import SafetensorError
    from safetensors.torch import load

    module, model, interpolant, description = built
    try:
        weights = load(data)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source}: its tensors cannot be read: {next(iter(str(error).splitlines()), '')}") from None
    _fill(module, weights, source)
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
    """The module that `model` describes, with these weights. Raises ValueError unless they are finite and have exactly
    the names, shapes and dtypes of its own.
    """
    kinds = {name: (tuple(weight.shape), _dtype(weight)) for name, weight in weights.items()}
    try:
        module = _skeleton(model, shape, num_classes, has_null_noise)
        _fits(module, kinds)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    _fill(module, weights, source)
    return module


def _skeleton(model: Any, shape: tuple[int, int, int], num_classes: int, has_null_noise: bool) -> torch.nn.Module:
    """The module, without weights if it is one of ours. Raises ValueError if no network has these sizes."""
    import torch

    if built_on_cpu(model):  # user modules may have state outside state_dict, so build on the CPU
        with torch.device("cpu"), seeded(0):
            return model.module(shape, num_classes, null_noise=has_null_noise)
    try:
        with torch.device("meta"), seeded(0):
            return model.module(shape, num_classes, null_noise=has_null_noise)
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"no network of states {list(shape)} and {num_classes:,} classes can be built: {reason}"
        ) from None


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _fits(module: torch.nn.Module, kinds: Mapping[str, Kind]) -> None:
    """Raise ValueError unless shapes and dtypes are those of the module's weights."""
    wanted = {name: (tuple(weight.shape), _dtype(weight)) for name, weight in module.state_dict().items()}
    if (different := differences(wanted, kinds)) is not None:
        raise ValueError(f"these weights do not fit: {different}")


def _fill(module: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    import torch

    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{source}: weight {name} is not finite: it has NaN or infinite values")
    module.load_state_dict(weights, assign=True)


def parse_network(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> NetworkField:
    """The generator in a file made by `dump_network`. Raises ValueError, naming `source`, for anything else."""
    from nag.field import NetworkField

    module, model, interpolant, description = parse(data, device, source, model_of)
    if not model.generates:
        raise ValueError(f"{source}: a {name_of(unadapted(model))} network estimates, it does not generate")
    return NetworkField(
        module,
        interpolant=interpolant,
        predicts=description.predicts,
        shape=description.state,
        num_classes=description.num_classes,
        has_null_noise=description.has_null_noise,
        has_null_class=description.has_null_class,
    )


def parse_estimator(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> Estimator:
    """The noise-level estimator in a file made by `dump_network`. Raises ValueError for anything else."""
    from nag.estimator import Estimator

    return Estimator(*_of_role("level", "estimate noise levels", data, device, source, model_of))


def parse_residual(
    data: bytes, device: str = "cpu", source: str = "checkpoint", model_of: ModelOf = described_model
) -> Residual:
    """The residual network in a file made by `dump_network`. Raises ValueError for anything else."""
    from nag.estimator import Residual

    return Residual(*_of_role("residual", "correct noise levels", data, device, source, model_of))


def _of_role(
    wanted: Role, does: str, data: bytes, device: str, source: str, model_of: ModelOf
) -> tuple[torch.nn.Module, Any, tuple[int, int, int]]:
    module, model, interpolant, description = parse(data, device, source, model_of)
    if (found := role(model)) != wanted:
        words = {"generator": "generates", "level": "estimates noise levels", "residual": "corrects noise levels"}
        raise ValueError(f"{source}: a {name_of(model)} network {words[found]}, it does not {does}")
    return module, interpolant, description.state


def load_network(
    path: str | Path, family: str | None = None, key: str | Sequence[str] = (), *, model: Any = None, **given: Any
) -> NetworkField:
    """A network as a field `field(x, t, y)`, on the CPU.

    A checkpoint of nagbench describes itself. One of another program is a file of torch.save or safetensors, or a
    folder or index of shards, in any layout that `nag.weights` knows. For it, give the family, "dit", "sit" or "repa",
    unless the arguments of its training say so; which weights to take, if there are several (`key`: an entry, or the
    keys that lead to it; by default averaged ones); and what its weights do not show: heads (if its size is not one of
    `nag.models.sizes`), shape (C, H, W) (if not square, or without pos_embed), num_classes (if it was trained without
    a null class). These must agree with the weights.
    family "diffusers" is a folder that diffusers saved: a UNet2DModel or DiTTransformer2DModel of DDPM.
    For another architecture, give `model`, an object of a class that builds its module, and the other fields of
    `nag.foreign_checkpoints.Foreign`: shape, num_classes, predicts, interpolant, time, precondition. `model` alone is
    for a checkpoint of nagbench whose model is that class.
    Raises ValueError naming the file and what is wrong with it, FileNotFoundError if it is not there.
    """
    path = Path(path)
    os.stat(path)  # raises FileNotFoundError
    if what := irregular(path):
        raise ValueError(f"{path} is {what}, not a file")
    if model is not None and given:
        if family is not None:
            raise ValueError(f"{path}: give the family of an official checkpoint or the model of another, not both")
        return _brought(_foreign(path, model, given | ({"key": key} if key else {})), str(path))
    if family == "diffusers" or (family is None and model is None and path.is_dir() and _is_diffusers(path)):
        return _brought(_of_diffusers(path, given), str(path))
    if not _is_own(path, family, key, given, str(path)):
        return _official(path, family, str(path), key, given)[1]
    with path.open("rb") as file:
        model_of = described_model if model is None else functools.partial(_given_model, model)
        _built(file, path.stat().st_size, str(path), model_of)  # before the whole file is read
    return parse_network(path.read_bytes(), source=str(path), model_of=model_of)


def own_form(
    file: File,
    family: str | None = None,
    source: str = "checkpoint",
    key: str | Sequence[str] = (),
    **architecture: Any,
) -> bytes:
    """The network's file as `dump_network` writes it, checked as by `load_network`. One of nagbench is not changed."""
    if not _is_own(file, family, key, architecture, source):
        return dump_network(**_official(file, family, source, key, architecture)[0]._asdict())
    data = file.read_bytes() if isinstance(file, Path) else file
    parse(data, source=source)
    return data


def foreign_form(file: File, foreign: Foreign, source: str = "checkpoint") -> bytes:
    """The file of a network of another architecture as `dump_network` writes it, checked as by `load_network`."""
    from nag.foreign_checkpoints import read_foreign

    network = read_foreign(file, foreign, source)
    _brought(network, source)
    return dump_network(**network._asdict())


def _foreign(path: Path, model: Any, given: dict[str, Any]) -> OfficialNetwork:
    from nag.foreign_checkpoints import Foreign, read_foreign

    for key in given:
        if key not in Foreign._fields:
            raise ValueError(f"{path}: unknown {key!r}; known: {', '.join(Foreign._fields[1:])}")
    for key in ("shape", "num_classes"):
        if key not in given:
            raise ValueError(f"{path}: {key!r} is missing; the weights of another architecture do not show it")
    try:
        return read_foreign(path, Foreign(model, **given), str(path))
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _is_diffusers(path: Path) -> bool:
    from nag.foreign_checkpoints import is_diffusers

    return is_diffusers(path)


def _of_diffusers(path: Path, given: dict[str, Any]) -> OfficialNetwork:
    from nag.foreign_checkpoints import in_folder, read_foreign

    if not path.is_dir() or given.keys() - {"num_classes"}:
        raise ValueError(f"{path}: a network of diffusers is a folder with config.json, which says all but num_classes")
    return read_foreign(path, in_folder(path, **given), str(path))


def _given_model(model: Any, described: Mapping[str, Any]) -> Any:
    """The model that the user gives for a file that names a class of their own. ValueError if it is another one."""
    if described["name"] != type(model).__name__ or described["fields"] != asdict(model):
        named = f"{described['name']}({', '.join(f'{key}={value!r}' for key, value in described['fields'].items())})"
        raise ValueError(f"its model is {named}, not {model!r}")
    return model


def _is_own(
    file: File, family: str | None, key: str | Sequence[str], architecture: Mapping[str, Any], source: str
) -> bool:
    """Whether it is a checkpoint of nagbench. Raises ValueError if more is given of it than it needs."""
    if isinstance(file, Path) and file.is_dir():
        return False
    with opened(file) as one:
        own = header.is_own(one)
    if own and (family is not None or key or architecture):
        given = ", ".join([*(["family"] if family else []), *(["key"] if key else []), *architecture])
        raise ValueError(f"{source}: a checkpoint of nagbench has no family, key or sizes; remove {given}")
    return own


def _official(
    file: File, family: str | None, source: str, key: str | Sequence[str], architecture: dict[str, Any]
) -> tuple[OfficialNetwork, NetworkField]:
    from nag.official_checkpoints import contradicts, read_official

    network = read_official(file, family, source, key, **architecture)
    field = _brought(network, source)
    reason = contradicts(field, "sit" if isinstance(network.model, SiT) else "dit")
    if reason is not None:
        raise ValueError(f"{source}: {reason}")
    return network, field


def _brought(network: OfficialNetwork, source: str) -> NetworkField:
    """The field of weights from elsewhere. Raises ValueError unless they are all that its module has, and finite."""
    from nag.field import NetworkField

    module = module_of(
        network.model,
        network.weights,
        shape=network.shape,
        num_classes=network.num_classes,
        has_null_noise=network.has_null_noise,
        source=source,
    )
    return NetworkField(
        module.eval(),
        interpolant=network.interpolant,
        predicts=network.predicts,
        shape=network.shape,
        num_classes=network.num_classes,
        has_null_noise=network.has_null_noise,
        has_null_class=network.has_null_class,
    )
