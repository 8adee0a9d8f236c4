"""Digests: what makes two results the same result (DESIGN.md, contract 5).

A digest is the hash of canonical JSON. Fields at their default are left out, so that a method may gain a field without
changing what was computed before it; therefore a default is never changed (tests/test_golden.py holds them).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from nag.registry import name_of

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


def changed_fields(instance: Any) -> dict[str, Any]:
    """The fields of a method that are not at their default, as they were coerced to their types."""
    fields = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def method(instance: Any) -> dict[str, Any]:
    """The identity of a method: its name, its VERSION, the fields that are not at their default."""
    return {"name": name_of(instance), "version": type(instance).VERSION, "fields": changed_fields(instance)}
