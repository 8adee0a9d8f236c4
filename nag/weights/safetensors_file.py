"""safetensors files and folders of them: names, shapes and dtypes are in their headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nag import header
from nag.weights.stored import File, Storage, Stored, opened, stored

INDEX = ".index.json"  # model.safetensors.index.json says which shard has which tensor
INDEX_AT_MOST = 2**24  # bytes
CONFIG = "config.json"
ENDS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_safetensors(file: File) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors and the strings of a header. Raises ValueError if it is damaged or does not fit the file."""
    with opened(file) as source:
        size = file.stat().st_size if isinstance(file, Path) else len(file)
        listed = header.read(source, size)
        data = source.tell()
    tensors = {}
    for name, each in listed.tensors.items():
        begin, end = each.data_offsets
        tensors[name] = stored(Storage(file, end - begin, data + begin), header.TORCH[each.dtype], tuple(each.shape))
    return tensors, listed.strings


def members(path: Path) -> list[Path]:
    """The files that hold a network saved as a folder or an index of shards: index, shards, config.json.

    Raises ValueError that begins with the path for a folder without weights, or with several; for shards that are not
    there or are not safetensors.
    """
    config = [path / CONFIG] if path.is_dir() and (path / CONFIG).is_file() else []
    index = path
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.name.endswith((INDEX, *ENDS)))
        indices = [each for each in found if each.name.endswith(f".safetensors{INDEX}")]
        single = [each for each in found if each.name.endswith(".safetensors")]
        if not indices:
            return [*config, _only(path, single, found)]
        index = _only(path, indices, indices)
    shards = sorted(set(weight_map(index).values()))
    return [*config, index, *(index.parent / name for name in shards)]


def _only(folder: Path, fitting: list[Path], found: list[Path]) -> Path:
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.name for each in fitting[:5])
        raise ValueError(f"{folder}: it has {len(fitting)} files of weights ({names}); name the one that is meant")
    if found:
        raise ValueError(f"{folder}: of its weights only {found[0].name} is there; {NO_PICKLES}")
    raise ValueError(f"{folder}: a folder without a file of weights ({', '.join(ENDS[:2])})")


NO_PICKLES = (
    "shards and folders are read as safetensors only, whose headers say what is in which file. Write them anew: "
    "model.save_pretrained(NEW_PATH, safe_serialization=True), or name one file"
)


def weight_map(index: Path) -> dict[str, str]:
    """Which file has which tensor. Raises ValueError that begins with the path of the index."""
    try:
        if index.stat().st_size > INDEX_AT_MOST:
            raise ValueError(f"it has more than {INDEX_AT_MOST:,} bytes")
        listed = json.loads(index.read_bytes())["weight_map"]
        files = {str(name): str(file) for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: not an index of shards: {error!s}") from None
    for name in sorted(set(files.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{index}: its shard {header.short_repr(name)} is not beside it")
        if not name.endswith(".safetensors"):
            raise ValueError(f"{index}: its shards are {header.short_repr(name)} and the like; {NO_PICKLES}")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index}: its shard {name} is not there; copy all {len(set(files.values()))} shards")
    if not files:
        raise ValueError(f"{index}: it lists no tensors")
    return files


def read_members(files: list[Path]) -> tuple[dict[str, Stored], Mapping[str, Any]]:
    """The tensors of a network in several files, and config.json. Raises ValueError that begins with a path."""
    tensors: dict[str, Stored] = {}
    config: Mapping[str, Any] = {}
    for file in files:
        try:
            if file.name == CONFIG:
                config = read_config(file)
            elif file.name.endswith(".safetensors"):
                tensors |= read_safetensors(file)[0]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    for index in (file for file in files if file.name.endswith(INDEX)):
        wanted = weight_map(index)
        if missing := sorted(wanted.keys() - tensors.keys()):
            raise ValueError(f"{index}: {len(missing)} tensors are not in their shards: {', '.join(missing[:5])}")
        tensors = {name: tensors[name] for name in wanted}
    return tensors, config


def read_config(file: Path) -> dict[str, Any]:
    """An object of JSON. Raises ValueError for anything else."""
    if file.stat().st_size > INDEX_AT_MOST:
        raise ValueError(f"it has more than {INDEX_AT_MOST:,} bytes")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError("not a JSON object")
    return config
