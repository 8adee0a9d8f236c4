"""Digests: what makes two results the same result (DESIGN.md, contract 5).

A digest is the hash of canonical JSON. Fields at their default are left out, so that a method may gain a field without
changing what was computed before it; therefore a default is never changed (tests/test_golden.py holds them).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nag.registry import name_of, source_of

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
DIGEST_LENGTH = 32  # hex digits: 128 bits


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError or TypeError for what is not
    JSON.
    """
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    return checksum(canonical(value).encode())


def checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_LENGTH // 2).hexdigest()


def content(path: str, *, compute: bool = True) -> str:
    """The checksum of a file, kept by its path, size and time of change, so that a large one is read once.

    Without `compute` it is only looked up; a file that was never read has a name of its own then, equal to no other.
    """
    stat = os.stat(path)
    key = canonical([os.path.realpath(path), stat.st_size, stat.st_mtime_ns])
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nagbench" / "content" / digest(key)
    try:
        return kept.read_text()
    except OSError:
        if not compute:
            return f"unread {digest(key)}"
    hashed = hashlib.blake2b(digest_size=DIGEST_LENGTH // 2)
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            hashed.update(part)
    with contextlib.suppress(OSError):  # a home that cannot be written only costs reading the file again
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        temporary.write_text(hashed.hexdigest())
        temporary.replace(kept)
    return hashed.hexdigest()


def changed_fields(instance: Any) -> dict[str, Any]:
    """The fields of a method that are not at their default, as they were coerced to their types."""
    fields = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            fields[field.name] = changed_fields(value) if dataclasses.is_dataclass(value) else value
    return fields


def method(instance: Any) -> dict[str, Any]:
    """The identity of a method: its name, its VERSION, the fields that are not at their default; of one of the user's
    own the digest of its source too.
    """
    source = source_of(instance)
    found = {"name": name_of(instance), "fields": changed_fields(instance)}
    if source is None:
        return {**found, "version": type(instance).VERSION}
    return {**found, "version": getattr(instance, "VERSION", 1), "source": source}
