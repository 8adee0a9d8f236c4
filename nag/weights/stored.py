"""Tensors that are still in their file: shape and dtype are known, the numbers are read on demand."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import torch

File = Path | bytes  # a file, or its content

FLOATS = ("float16", "bfloat16", "float32", "float64")
ITEMSIZE = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}


def opened(file: File) -> BinaryIO:
    return file.open("rb") if isinstance(file, Path) else io.BytesIO(file)


@dataclass(eq=False)
class Storage:
    """Bytes of a file that one or several tensors share. start: of the first byte, in the file; None until known."""

    file: File
    size: int  # bytes
    start: int | None = None

    def bytes(self, begin: int, count: int) -> bytearray:
        """Raises ValueError if the file ends before."""
        assert self.start is not None
        with opened(self.file) as file:
            file.seek(self.start + begin)
            data = bytearray(file.read(count))
        if len(data) != count:
            raise ValueError("the file is cut off: it ends within a tensor")
        return data


class Stored(NamedTuple):
    """A tensor in a file. stride and offset count elements, as torch's do. dtype: torch's name, such as "float16"."""

    shape: tuple[int, ...]
    dtype: str
    storage: Storage
    stride: tuple[int, ...]
    offset: int = 0

    def read(self) -> torch.Tensor:
        """The tensor, on the CPU, in memory of its own. Raises ValueError if the file ends before."""
        import torch

        dtype = getattr(torch, self.dtype)
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=dtype)
        width = ITEMSIZE[self.dtype]
        data = self.storage.bytes(self.offset * width, extent(self.shape, self.stride) * width)
        return torch.frombuffer(data, dtype=dtype).as_strided(self.shape, self.stride)


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last of a tensor, both included."""
    return 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if math.prod(shape) else 0


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie side by side."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def stored(
    storage: Storage, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0
) -> Stored:
    """A tensor in a storage. Raises ValueError unless it lies within, and has no more elements than the storage."""
    stride = contiguous(shape) if stride is None else stride
    numbers = (*shape, *stride, offset)
    if len(shape) != len(stride) or len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise ValueError(f"a tensor has the invalid shape {list(shape)[:8]} or stride {list(stride)[:8]}")
    held = storage.size // ITEMSIZE[dtype]
    if offset + extent(shape, stride) > held or math.prod(shape) > held:
        raise ValueError(f"a tensor of shape {list(shape)} does not fit its {held:,} stored numbers")
    return Stored(shape, dtype, storage, stride, offset)
