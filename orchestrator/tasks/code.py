"""The user's own code in a store: put there at submission, and imported only if it has the digest that a task names.

A digest is that of all paths and contents (spec/user_code.py), so other code under it, or other files beside it,
are found before anything is imported.
"""

from __future__ import annotations

import contextlib

from orchestrator.errors import CorruptFile, MissingFile, Unreadable
from orchestrator.identity import checksum, digest
from orchestrator.spec.user_code import Code
from orchestrator.store.layout import code_name, code_record
from orchestrator.store.store import Store


def read(store: Store, source: str) -> Code:
    """The code of that digest. Raises CorruptFile, after setting aside what is something else."""
    manifest = store.read_record(code_record(source))
    files = {"main": manifest["main"], "files": manifest["files"]}
    if digest(files) != source:
        store.remove(code_record(source))
        raise CorruptFile(f"{code_record(source)} lists other code than that of its name; it was set aside")
    found: dict[str, bytes] = {}
    for path, wanted in manifest["files"].items():
        name = code_name(source, path)
        data = _read(store, name)
        if checksum(data) != wanted:
            store.remove(name)
            raise CorruptFile(f"{name} is not the file that this sweep uses; it was set aside")
        found[path] = data
    return Code(manifest["main"], found, code_name(source, ""))


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except (MissingFile, Unreadable):
        raise
    except CorruptFile:  # a folder, or a pipe
        store.remove(name)
        raise


def keep(store: Store, code: Code) -> list[str]:
    """Put code into the store. What has one of its names and other content is set aside: the names of such files."""
    others = []
    for path, data in code.files.items():
        if _put(store, code_name(code.digest, path), data):
            others.append(code_name(code.digest, path))
    try:
        held = store.read_record(code_record(code.digest), repair=False)
    except MissingFile:
        held = code.manifest
    except CorruptFile:
        held = {}
    if held != code.manifest:
        store.remove(code_record(code.digest))
        others.append(code_record(code.digest))
    store.create_record(code_record(code.digest), code.manifest)
    return others


def _put(store: Store, name: str, data: bytes) -> bool:
    """Create a file; True if there was another one in its place, which is set aside."""
    if store.create(name, data):
        return False
    with contextlib.suppress(CorruptFile):
        if store.read(name) == data:
            return False
    store.remove(name)
    store.create(name, data)
    return True
