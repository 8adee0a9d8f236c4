"""Headers of our network files, checked before a tensor is read: one that does not fit its file is a ValueError.

A network is a safetensors file. Its header lists the tensors (dtype, shape, offsets) and has, as JSON under our own
key, the `Description` of the network.
"""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nag.interpolants import Prediction
from nag.registry import METHODS, find

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "nagbench-network-1"
KEY = "nagbench"  # our only key in a header: safetensors writes several in no fixed order
HEADER_AT_MOST = 2**24  # bytes; a thousand tensors take 0.1 MB
SPARSE_FROM = 2**24  # bytes of a file; smaller ones are not checked for holes

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
TORCH = {  # how torch names them
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{"U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32"},
    **{"F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64"},
}

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
Size = Annotated[int, Field(ge=0, lt=2**48)]
Side = Annotated[int, Field(ge=1, le=2**16)]


class Tensor(BaseModel):
    """A tensor as the header lists it; offsets count from the end of the header."""

    model_config = STRICT

    dtype: str
    shape: Annotated[list[Size], Field(max_length=16)]
    data_offsets: Annotated[list[Size], Field(min_length=2, max_length=2)]


class Described(BaseModel):
    """A method by name and fields. source: the digest of the user's own code that its class is from."""

    model_config = STRICT

    name: Annotated[str, Field(max_length=200)]
    fields: dict[str, Any]
    source: Annotated[str, Field(pattern="^[0-9a-f]{8,128}$")] | None = None


class Description(BaseModel):
    """A network without its weights: all that is needed to build it. shape: (C, H, W) of a state."""

    model_config = STRICT

    model: Described
    interpolant: Described
    predicts: Prediction
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    num_classes: Annotated[int, Field(ge=0, le=10_000_000)]
    has_null_noise: bool
    has_null_class: bool
    convention: dict[str, Any] | None = None  # of a module of other code: nag.models.convention.Convention

    @property
    def state(self) -> tuple[int, int, int]:
        channels, height, width = self.shape
        return channels, height, width


class Own(BaseModel):
    """The JSON under our key."""

    model_config = STRICT

    format: Literal["nagbench-network-1"]
    network: Description


class Listed(NamedTuple):
    """The tensors of a file, and its table of strings."""

    tensors: dict[str, Tensor]
    strings: dict[str, str]


TABLE = TypeAdapter(dict[str, dict[str, Any]], config=ConfigDict(strict=True))
STRINGS = TypeAdapter(dict[str, str], config=ConfigDict(strict=True))


def read(file: BinaryIO, size: int) -> Listed:
    """The header of an open safetensors file of `size` bytes. Raises ValueError, in one sentence, if it is damaged
    or does not fit the file. Only the header is read.
    """
    table = _table(file, size)
    try:
        strings = STRINGS.validate_python(table.pop("__metadata__", {}))
        tensors = {name: Tensor.model_validate(entry) for name, entry in table.items()}
    except ValidationError as error:
        raise ValueError(f"its header is damaged: {sentence(error)}") from None
    _lie_side_by_side(tensors, size - file.tell())
    _has_data(file, size)
    return Listed(tensors, strings)


def _table(file: BinaryIO, size: int) -> dict[str, dict[str, Any]]:
    start = file.read(8)
    if len(start) < 8:
        raise ValueError("not a safetensors file: shorter than its header")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        raise ValueError("not a safetensors file, or cut off: the header is longer than the file")
    if length > HEADER_AT_MOST:
        raise ValueError(f"its header has {length:,} bytes; at most {HEADER_AT_MOST:,} are read")
    text = file.read(length)
    try:
        return TABLE.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"not a safetensors file: its header is not its JSON: {sentence(error)}") from None


def _lie_side_by_side(tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise ValueError unless the tensors fill the `size` bytes behind the header, without gap and overlap."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in BITS:
            raise ValueError(f"tensor {short_repr(name)} has the unknown dtype {short_repr(tensor.dtype)}")
        begins, ends = tensor.data_offsets
        wanted = math.prod(tensor.shape) * BITS[tensor.dtype] // 8
        if begins != end or ends - begins != wanted:
            raise ValueError(
                f"tensor {short_repr(name)} of shape {tensor.shape} takes {_count(wanted)} bytes from {end:,}, "
                f"its header says {begins:,} to {ends:,}"
            )
        end = ends
    if end != size:
        raise ValueError(f"the file is cut off or damaged: its header lists {end:,} bytes of tensors, it has {size:,}")


def _has_data(file: BinaryIO, size: int) -> None:
    """Raise ValueError where most of a large file was never written, as after a copy that was interrupted."""
    if size < SPARSE_FROM or isinstance(file, io.BytesIO) or not hasattr(os, "SEEK_DATA"):
        return
    number, written, place, parts = file.fileno(), 0, file.tell(), 0
    back = place
    try:
        while place < size and written <= size // 2 and parts < 10_000:
            place = os.lseek(number, place, os.SEEK_DATA)
            ends = os.lseek(number, place, os.SEEK_HOLE)
            written, place, parts = written + ends - place, ends, parts + 1
    except OSError:  # no data beyond this place
        pass
    os.lseek(number, back, os.SEEK_SET)
    if written <= size // 2 and parts < 10_000:
        raise ValueError(f"of its {size:,} bytes only {written:,} were ever written; copy it again")


def described(listed: Listed) -> Description:
    """The network that the header describes. Raises ValueError for a file of something else, or a wrong description."""
    try:
        return Own.model_validate_json(listed.strings.get(KEY, "{}")).network
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["loc"][:1] == ("format",):
            other_format = short_repr(first["input"]) if first["type"] == "literal_error" else "None"
            raise ValueError(f"not a network of nagbench (format {other_format}, wanted {FORMAT!r})") from None
        raise ValueError(f"its description of the network is not valid: {sentence(error)}") from None


def built(family: str, method: Described) -> Any:
    """The registered method that a description names. Raises ValueError for an unknown name or wrong fields."""
    if method.name not in METHODS[family]:
        known = ", ".join(METHODS[family])
        raise ValueError(f"unknown name {short_repr(method.name)} in {family}; known: {known}")
    try:
        return find(family, method.name)(**method.fields)
    except ValidationError as error:
        raise ValueError(f"its {family.removesuffix('s')} {method.name} is not valid: {sentence(error)}") from None


def no_deeper(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a model of more blocks than the file has tensors: building it alone could take hours."""
    if getattr(model, "depth", 0) > len(tensors):
        raise ValueError(f"its model has depth {model.depth:,}, the file only {len(tensors)} tensors")


def is_own(file: BinaryIO) -> bool:
    """Whether an open file is one of ours. It is read from its beginning, and left there."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        return KEY in _table(file, size).get("__metadata__", {})
    except ValueError:
        return False
    finally:
        file.seek(0)


def description_in(path: str | Path) -> Description | None:
    """What a file says of its network, from its header alone; None for a file that does not describe itself.

    Raises ValueError, naming the file, where it is one of ours and its header is wrong or does not fit the file, and
    where it cannot be read at all.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not is_own(file):
                return None
            try:
                return described(read(file, size))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: where, what, and the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(short_repr(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
    reason = " ".join(first["msg"].split()).removeprefix("Value error, ")
    more = "" if first["type"] in ("missing", "json_invalid", "value_error") else f", got {short_repr(first['input'])}"
    return f"{where}: {reason}{more}" if where else f"{reason}{more}"


def _count(number: int) -> str:
    return f"{number:,}" if number < 2**63 else "more than 2^63"


def short_repr(value: Any) -> str:
    """As Python writes it, cut and without what a terminal would obey."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of too many digits, a value too deep
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
