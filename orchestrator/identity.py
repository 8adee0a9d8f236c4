"""Digests: what makes two results the same result (DESIGN.md, contract 5).

A digest is the hash of canonical JSON. Fields at their default are left out, so that a method may gain a field without
changing what was computed before it; therefore a default is never changed (tests/test_golden.py holds them).
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
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Raises ValueError or TypeError for what is not
    JSON.
    """
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    return checksum(canonical(value).encode())


def checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_LENGTH // 2).hexdigest()


def content(path: str, *, compute: bool = True) -> str:
    """The checksum of a file, kept by its path, size and times, so that a large one is read once. A program can set the
    time of change that `ls` shows, but not that of the inode, so another file in its place is read.

    Without `compute` it is only looked up; a file that was never read has a name of its own then, equal to no other.
    A folder of weights (a network of diffusers) is its members by name; its checksum ends with a slash. Raises OSError,
    or BadInput for what is neither file nor folder, such as a named pipe.
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
    """The files that make a folder of weights: descriptions and safetensors."""
    return sorted(name for name in os.listdir(folder) if name.endswith((".json", ".safetensors")))


@dataclasses.dataclass(frozen=True)
class Outside:
    """What a method reads from outside of the store. Its content is part of identities, its place is not.

    `copied`: a file (or a folder of weights) that goes into the store; else a data set, read where it lies.
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
    """By field, the files and data sets that a method names, as FILES and FOLDERS of its class say (nag.registry)."""
    found: dict[str, Outside] = {}
    for name, default in getattr(instance, "FILES", {}).items():
        place = getattr(instance, name)
        if place is not None and hasattr(instance, "located"):  # a name of a known collection of weights
            place = instance.located()
        if place is None and default is not None:
            from nag.pretrained import find

            place = find(default)
        if place is not None and not os.path.exists(place):
            found[name] = Absent.at(str(place), copied=True)
        elif place is not None:
            found[name] = Outside(str(place), content(str(place), compute=compute), copied=True)
        elif default is not None:
            found[name] = MissingWeights.named(default)
    for name in getattr(type(instance), "FOLDERS", ()):
        from nag.datasets.dataset import listing

        place = getattr(instance, name)
        try:
            found[name] = Outside(place, listing(place, compute=compute), copied=False)
        except FileNotFoundError:  # a sweep can be planned where its data is not
            found[name] = Absent.at(place, copied=False)
        except Unreachable as error:
            raise EnvironmentProblem(f"{error}") from error
        except (OSError, ValueError) as error:
            raise BadInput(f"{error}") from error
    return found


def changed_fields(instance: Any) -> dict[str, Any]:
    """The fields of a method that are not at their default, as they were coerced to their types."""
    fields = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            fields[field.name] = changed_fields(value) if dataclasses.is_dataclass(value) else value
    return fields


def method(instance: Any, *, compute: bool = True) -> dict[str, Any]:
    """The identity of a method: its name, its VERSION, the fields that are not at their default, in place of a path
    the content there; of one of the user's own the digest of its source too.
    """
    source = source_of(instance)
    contents = {name: found.content for name, found in outside(instance, compute=compute).items()}
    found = {"name": name_of(instance), "fields": {**changed_fields(instance), **contents}}
    if source is None:
        return {**found, "version": type(instance).VERSION}
    return {**found, "version": getattr(instance, "VERSION", 1), "source": source}
