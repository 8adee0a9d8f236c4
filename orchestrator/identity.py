"""Digests: hashes of all that changes a result.

A digest is the hash of canonical JSON. Fields at their default are left out, so a method can gain a field without
changing older digests; for the same reason a default never changes (tests/test_golden.py checks this).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

from nag.cache import folder, keep
from nag.locations import irregular
from nag.registry import name_of, source_of
from nag.unreachable import Unreachable
from orchestrator.errors import BadInput, EnvironmentProblem

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
DIGEST_LENGTH = 32  # hex digits: 128 bits


def canonical(value: Any) -> str:
    """The unique JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError or TypeError."""
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    return checksum(canonical(value).encode())


def checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_LENGTH // 2).hexdigest()


def content(path: str, *, compute: bool = True) -> str:
    """The checksum of a file. It is cached by path, size, times and inode, so that a large file is read once. (Programs
    can set mtime but not ctime, so a replaced file is read again.)

    Without `compute` it is only looked up; a file that was never read gets a name that equals no checksum. For a folder
    of weights (a diffusers model) it is the hash of the members' checksums, with a slash at the end. Raises OSError, or
    BadInput for special files such as a named pipe.
    """
    if os.path.isdir(path):
        parts = {name: content(os.path.join(path, name), compute=compute) for name in members(path)}
        return digest(parts) + "/"
    if what := irregular(path):
        raise BadInput(f"{path} is {what}; a file or folder is needed.")
    stat = os.stat(path)
    known = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    key = canonical([os.path.realpath(path), *known])
    kept = folder("content") / digest(key)
    try:
        return kept.read_text()
    except OSError:
        if not compute:
            return f"unread {digest(key)}"
    hashed = hashlib.blake2b(digest_size=DIGEST_LENGTH // 2)
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            hashed.update(part)
    keep(kept, hashed.hexdigest())
    return hashed.hexdigest()


def members(folder: str) -> list[str]:
    """The files of a folder of weights: .json and .safetensors."""
    return sorted(name for name in os.listdir(folder) if name.endswith((".json", ".safetensors")))


@dataclasses.dataclass(frozen=True)
class Outside:
    """A file or folder outside the store that a method reads. Its content is part of digests, its place is not.

    `copied`: a file or folder of weights that is copied into the store; otherwise a data set, read in place.
    """

    place: str  # path or URL
    content: str  # the checksum, or a name that equals none
    copied: bool


@dataclasses.dataclass(frozen=True)
class Absent(Outside):
    """A file or folder that is not on this machine: what needs it can be planned, but not run."""

    @classmethod
    def at(cls, place: str, copied: bool) -> Absent:
        return cls(place, f"absent {place}", copied)


@dataclasses.dataclass(frozen=True)
class MissingWeights(Outside):
    """Known weights that were not fetched to this machine."""

    name: str = ""

    @classmethod
    def named(cls, name: str) -> MissingWeights:
        return cls("", f"missing {name}", True, name)


def outside(instance: Any, *, compute: bool = True) -> dict[str, Outside]:
    """The files and data sets that a method reads, by field: FILES and FOLDERS of its class (nag.registry)."""
    inputs: dict[str, Outside] = {}
    for name, default in instance.FILES.items():
        place = getattr(instance, name)
        if place is not None and hasattr(instance, "located"):  # the name of known weights
            place = instance.located()
        if place is None and default is not None:
            from nag.pretrained import find

            place = find(default)
        if place is not None and not os.path.exists(place):
            inputs[name] = Absent.at(str(place), copied=True)
        elif place is not None:
            inputs[name] = Outside(str(place), content(str(place), compute=compute), copied=True)
        elif default is not None:
            inputs[name] = MissingWeights.named(default)
    for name in instance.FOLDERS:
        from nag.datasets.dataset import listing

        place = getattr(instance, name)
        try:
            inputs[name] = Outside(place, listing(place, compute=compute), copied=False)
        except FileNotFoundError:  # a sweep can be planned without its data
            inputs[name] = Absent.at(place, copied=False)
        except Unreachable as error:
            raise EnvironmentProblem(f"{error}") from error
        except (OSError, ValueError) as error:
            raise BadInput(f"{error}") from error
    return inputs


def changed_fields(instance: Any) -> dict[str, Any]:
    """The fields of a method that differ from their defaults, coerced to their types."""
    fields = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            fields[field.name] = changed_fields(value) if dataclasses.is_dataclass(value) else value
    return fields


def method_identity(instance: Any, *, compute: bool = True) -> dict[str, Any]:
    """The identity of a method: name, VERSION, the fields that differ from their defaults (paths replaced by the
    checksums of their contents), and for a user's own method the digest of its source.
    """
    source = source_of(instance)
    contents = {name: each.content for name, each in outside(instance, compute=compute).items()}
    identity = {"name": name_of(instance), "fields": {**changed_fields(instance), **contents}}
    if source is None:
        return {**identity, "version": type(instance).VERSION}
    return {**identity, "version": getattr(instance, "VERSION", 1), "source": source}
