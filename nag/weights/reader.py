"""Read weights from any file, folder or index of shards: what is in it first, the tensors on demand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.weights.description import arguments_of, in_words
from nag.weights.layout import chosen
from nag.weights.safetensors_file import INDEX, members, read_members, read_safetensors
from nag.weights.stored import File, Stored, opened
from nag.weights.torch_file import is_torch, read_torch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights:
    """A set of weights in a file.

    tensors: by clean name, with `shape`, `dtype` ("float32") and `read()`. layout: how they were saved, in words.
    arguments: of the training that made them, as far as the file has them as plain values. config: of config.json.
    """

    source: str  # the path, for messages
    tensors: Mapping[str, Stored]
    layout: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, torch.Tensor]:
        """The state dict, read now, on the CPU, in the file's dtypes. Raises ValueError for a file that was cut."""
        try:
            return {name: tensor.read() for name, tensor in self.tensors.items()}
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None


def files_of(path: Path) -> list[Path]:
    """The files that are read for a network at this path: itself or, for a folder or an index of shards, index, shards
    and config.json. Raises ValueError that begins with the path.
    """
    return members(path) if path.is_dir() or path.name.endswith(INDEX) else [path]


def read_weights(
    file: File, key: str | Sequence[str] = (), names: Collection[str] = (), source: str | None = None
) -> Weights:
    """The weights in a file of torch.save or safetensors, or in a folder or index of shards. No tensor is read.

    key: the entry, or the keys that lead to it, where there are several; by default averaged (EMA) weights. names: some
    names that the network's weights have, if they are known, so that any prefix before them is found. source: what to
    call the file in messages. Raises ValueError that begins with `source` (SeveralSets), FileNotFoundError.
    """
    source = source or (str(file) if isinstance(file, Path) else "checkpoint")
    config: Mapping[str, Any] = {}
    if isinstance(file, Path) and (file.is_dir() or file.name.endswith(INDEX)):
        content, config = read_members(members(file))
        shards = sum(member.name.endswith(".safetensors") for member in members(file))
        form = f"a folder of {shards} shards" if shards > 1 else "a folder"
    else:
        try:
            content, form = _read(file)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    try:
        one, all_of_them = chosen(content, (key,) if isinstance(key, str) else tuple(key), names)
    except ValueError as error:
        raise type(error)(f"{source}: {error}") from None
    words = in_words(content, one, all_of_them, form)
    return Weights(source, dict(one.tensors), words, arguments_of(content), config)


def _read(file: File) -> tuple[Any, str]:
    with opened(file) as opened_file:
        start = opened_file.read(16)
    if is_torch(start):
        return read_torch(file), ""
    named = isinstance(file, Path) and file.name.endswith(".safetensors")
    if named or start[4:9] == b"\0\0\0\0{":  # the length of a header, and its beginning
        return read_safetensors(file)[0], "a safetensors file"
    if start[:1] == b"\x80":
        raise ValueError(
            "a pickle of Python objects, and reading it runs code from the file. Where you trust it and have its code, "
            "write its weights anew: python -c \"import pickle, torch; torch.save(pickle.load(open(PATH, 'rb'))['ema']"
            '.state_dict(), NEW_PATH)"'
        )
    raise ValueError(f"neither a file of torch.save nor safetensors: it begins with {start[:9]!r}")
