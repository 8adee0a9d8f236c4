"""Read the outputs of tasks, checked against their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.store.layout import block_name, file_name, record_name

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.store.store import Store


def read_output(store: Store, kind: str, digest: str, name: str) -> bytes:
    """An output file of a finished small task, checked against its record.

    If it does not match, raises CorruptFile after setting file and record aside, so that the task is done again. One
    that another machine has just written may take a while to be visible here.
    """
    from orchestrator.errors import CorruptFile, MissingFile, Unreadable
    from orchestrator.identity import checksum

    _await(store, record_name(kind, digest))
    record = store.read_record(record_name(kind, digest))
    path = file_name(digest, name)
    _await(store, path)
    try:
        data = store.read(path)
    except Unreadable:
        raise
    except CorruptFile as error:
        data = b"" if isinstance(error, MissingFile) else b"not a file"
    if checksum(data) == record["files"].get(name):
        return data
    if data:
        store.remove(path)
    store.remove(record_name(kind, digest))
    raise CorruptFile(f"{path} does not match the checksum in its record; it was set aside and will be made again")


def read_block(store: Store, digest: str, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A block with its record, checked. Raises MissingFile, or CorruptFile after setting it aside. Another block in its
    place, as after a restore into the wrong folder, is corrupt too.
    """
    from orchestrator.errors import CorruptFile

    name = block_name(digest, number)
    _await(store, name)
    arrays, record = store.read_arrays(name)
    claimed = (
        record.get("first", 0) // (record.get("count") or 1)
        if record.get("kind") == "sample"
        else record.get("number", number)
    )
    if record.get("digest", digest) == digest and claimed == number and "labels" in arrays:
        return arrays, record
    store.remove(name)
    whole = f"{claimed} of {record.get('digest')}" if "labels" in arrays else "without labels"
    raise CorruptFile(f"{name} is another block ({whole}); it was set aside and will be made again")


def _await(store: Store, name: str) -> None:
    """Wait for a file that caches of the file system may hide. (Without such caches this asks nothing.)"""
    if store.visible_after_s:
        store.appears(name)


def not_finite(outputs: Mapping[str, np.ndarray]) -> tuple[str, int, int] | None:
    """The first output of an extractor with rows that are not finite: its name, the first such row, how many rows."""
    import numpy as np

    for name, rows in outputs.items():
        wrong = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if wrong.any():
            return name, int(wrong.argmax()), int(wrong.sum())
    return None
