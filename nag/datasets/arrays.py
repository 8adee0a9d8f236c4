"""Arrays in .npz files, never unpickled: headers are read alone, uncompressed arrays are memory-mapped."""

from __future__ import annotations

import os
import struct
import zipfile
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.datasets.placeholders import is_pointer
from nag.locations import check_regular

if TYPE_CHECKING:
    import numpy as np

LOCAL_HEADER = 30  # bytes of a zip member before its name; the last 4 are the lengths of name and extra field


class Header(NamedTuple):
    """The header of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: Any  # np.dtype
    start: int  # bytes from the start of the member to its values


def headers(path: str) -> dict[str, Header]:
    """The headers of the arrays of an .npz file, by name.

    Raises FileNotFoundError; ValueError if it is not a valid .npz file or holds Python objects.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            by_name = {name.removesuffix(".npy"): _header(archive, name) for name in names}
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, its decoders and numpy raise some twenty types for a damaged file
        if is_pointer(path):
            fix = "its content was not fetched: run 'git lfs pull' in its repository"
            raise ValueError(f"{path} is a pointer of Git LFS; {fix}") from None
        raise ValueError(f"{path} is not a valid .npz file ({_words(error)})") from error
    for name, header in by_name.items():
        if header.dtype.hasobject:
            raise ValueError(f"{path}: {name} holds pickled Python objects, which are never loaded")
    return by_name


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    import numpy as np

    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"{name} is of version {version} of the format")
        shape, fortran, dtype = read[version](member)
        start, size = member.tell(), archive.getinfo(name).file_size
        if min(shape, default=0) < 0 or (not dtype.hasobject and start + dtype.itemsize * prod(shape) > size):
            raise ValueError(f"{name} declares {dtype} {shape}, but has {size - start:,} bytes")
        return Header(shape, fortran, dtype, start)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def array(path: str, name: str) -> np.ndarray:
    """An array of an .npz file: a read-only memory map if it is uncompressed, as `numpy.savez` writes it; one from
    `numpy.savez_compressed` is read into memory as a whole.

    Raises what `headers` raises, KeyError for a name that is not in the file, and ValueError if the array cannot be
    read or does not fit in memory.
    """
    import numpy as np

    header = headers(path)[name]
    size = header.dtype.itemsize * prod(header.shape)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED or not size or header.fortran:
                if size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
                    fix = "store it uncompressed (numpy.savez), then it is read where it lies"
                    raise ValueError(f"it has {size / 1e9:.0f} GB, this machine {memory / 1e9:.0f} GB of memory; {fix}")
                with archive.open(member) as stream:
                    return np.lib.format.read_array(stream, allow_pickle=False)
            file.seek(member.header_offset)
            lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
            start = member.header_offset + LOCAL_HEADER + sum(lengths) + header.start
        return np.memmap(path, header.dtype, "r", start, header.shape)
    except Exception as error:
        raise ValueError(f"{path}: {name} cannot be read ({_words(error)})") from error
