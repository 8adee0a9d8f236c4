"""The user's own code in a store: copied there at submission, and imported only if it has the digest that a task names.

The digest covers all paths and contents (spec/user_code.py), so changed or added files are noticed before anything is
imported.
"""

from __future__ import annotations

import contextlib

from orchestrator.errors import CorruptFile, MissingFile, Unreadable
from orchestrator.identity import checksum, digest
from orchestrator.spec.user_code import Code
from orchestrator.store.layout import code_name, code_record
from orchestrator.store.store import Store


def read(store: Store, source: str) -> Code:
    """The code with this digest. Raises CorruptFile, after setting aside what differs."""
    manifest = store.read_record(code_record(source))
    files = {"main": manifest["main"], "files": manifest["files"]}
    if digest(files) != source:
        store.remove(code_record(source))
        raise CorruptFile(f"{code_record(source)} lists code that its name does not match; it was set aside")
    contents: dict[str, bytes] = {}
    for path, wanted in manifest["files"].items():
        name = code_name(source, path)
        data = _read(store, name)
        if checksum(data) != wanted:
            store.remove(name)
            raise CorruptFile(f"{name} is not the file that this sweep uses; it was set aside")
        contents[path] = data
    return Code(manifest["main"], contents, code_name(source, ""))


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except (MissingFile, Unreadable):
        raise
    except CorruptFile:  # a folder, or a pipe
        store.remove(name)
        raise


def keep(store: Store, code: Code) -> list[str]:
    """Put code into the store. Returns the files in its place that had other content and were set aside."""
    others = []
    for path, data in code.files.items():
        if _put(store, code_name(code.digest, path), data):
            others.append(code_name(code.digest, path))
    try:
        manifest = store.read_record(code_record(code.digest), repair=False)
    except MissingFile:
        manifest = code.manifest
    except CorruptFile:
        manifest = {}
    if manifest != code.manifest:
        store.remove(code_record(code.digest))
        others.append(code_record(code.digest))
    store.create_record(code_record(code.digest), code.manifest)
    return others


def _put(store: Store, name: str, data: bytes) -> bool:
    """Create a file; True if another one was in its place and was set aside."""
    if store.create(name, data):
        return False
    with contextlib.suppress(CorruptFile):
        if store.read(name) == data:
            return False
    store.remove(name)
    store.create(name, data)
    return True
