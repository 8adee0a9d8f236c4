"""Files of torch.save: the new form, a zip of a pickle and one entry per storage, and the old one, a row of pickles."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any, BinaryIO

from nag.weights.pickled import BYTES_AT_MOST, Machine
from nag.weights.stored import File, Storage, opened

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9"  # how the two forms begin
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
CUT = "the file is cut off: its end is missing; copy it again and compare its size"
SCRIPT = (
    "it is a TorchScript program, not a file of weights. Write its weights anew: "
    "torch.save(torch.jit.load(PATH).state_dict(), NEW_PATH)"
)


def is_torch(start: bytes) -> bool:
    """Whether a file that begins so was written by torch.save."""
    return start.startswith((ZIP, LEGACY))


def read_torch(file: File) -> Any:
    """What torch.load would return, except that tensors are `Stored` and objects of other classes `Inert`.

    Nothing in the file is imported or called, and no tensor is read. Raises ValueError for a damaged file.
    """
    with opened(file) as source:
        start = source.read(len(LEGACY))
        source.seek(0)
        if start.startswith(ZIP):
            return _read_zip(source, file)
        return _read_legacy(source, file)


def _read_zip(source: BinaryIO, file: File) -> Any:
    if not zipfile.is_zipfile(source):
        raise ValueError(CUT)
    try:
        with zipfile.ZipFile(source) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            top = next((name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1), None)
            if top is None:
                raise ValueError("it is a zip, but not of torch.save: it has no data.pkl")
            folder = top.removesuffix("data.pkl")
            if f"{folder}constants.pkl" in entries:
                raise ValueError(SCRIPT)
            if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder")[:8] != b"little":
                raise ValueError("its numbers are big-endian; write it anew on a common machine")
            pickle = io.BytesIO(_bytes(source, _plain(entries[top], BYTES_AT_MOST)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error) as error:
        raise ValueError(f"the file is damaged: {error}") from None
    storages: dict[str, Storage] = {}

    def find(key: str, size: int) -> Storage:
        info = entries.get(f"{folder}data/{key}")
        if info is None or info.file_size < size:
            raise ValueError(f"its storage {key[:20]} is missing or too short")
        if key not in storages:
            start = _data_start(source, _plain(info, info.file_size))
            storages[key] = Storage(file, info.file_size, start)
        return storages[key]

    return Machine(find).run(pickle)


def _plain(info: zipfile.ZipInfo, at_most: int) -> zipfile.ZipInfo:
    """The entry, if it is stored as it is. Raises ValueError if it is compressed, encrypted or larger."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise ValueError(f"its entry {info.filename[-40:]} is compressed or encrypted, which torch.save never does")
    if info.file_size > at_most:
        raise ValueError(f"its pickle has {info.file_size:,} bytes; at most {at_most:,} are read")
    return info


def _data_start(source: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin in the file: behind its local header. Raises ValueError if they do not fit."""
    source.seek(info.header_offset)
    head = source.read(30)
    if len(head) < 30 or not head.startswith(ZIP):
        raise ValueError(CUT)
    name, extra = struct.unpack("<HH", head[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > source.seek(0, io.SEEK_END):
        raise ValueError(CUT)
    return start


def _bytes(source: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    start = _data_start(source, info)
    source.seek(start)
    return source.read(info.file_size)


def _read_legacy(source: BinaryIO, file: File) -> Any:
    """Pickles of a magic number, a version, the machine, the content and the keys of its storages; then the storages,
    each a count of elements and its bytes.
    """
    storages: dict[str, Storage] = {}

    def find(key: str, size: int) -> Storage:
        storage = storages.setdefault(key, Storage(file, size))
        storage.size = max(storage.size, size)
        return storage

    try:
        head = [Machine(find).run(source) for _ in range(3)]
        if head[:2] != [MAGIC, PROTOCOL] or not isinstance(head[2], dict) or not head[2].get("little_endian"):
            raise ValueError("it is not of a version of torch.save that is known")
        content, keys = Machine(find).run(source), Machine(find).run(source)
    except ValueError as error:
        raise ValueError(f"the file is cut off, damaged, or of another kind: {error}") from None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(storages) - set(keys):
        raise ValueError("the file is damaged: its list of storages is not complete")
    _place(source, [storages.get(key) for key in keys])
    return content


def _place(source: BinaryIO, storages: list[Storage | None]) -> None:
    """Find where the storages begin that follow one another from this place: each a count and its bytes."""
    place = source.tell()
    end = source.seek(0, io.SEEK_END)
    for storage in storages:
        if storage is None:  # of unknown size, so that what follows cannot be found
            raise ValueError("it holds numbers of a type that is not read, such as quantised ones")
        storage.start = place + 8
        place = storage.start + storage.size
        if place > end:
            raise ValueError(CUT)
