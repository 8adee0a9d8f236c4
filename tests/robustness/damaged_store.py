"""Stores with one to three changes: damage, which is mended by running again, and lies, which no checksum shows."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nag.checkpoint import KEY
from orchestrator.identity import canonical, checksum
from orchestrator.store.arrays import pack, unpack

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**63, 10**40, 1e308, -1e308, 0.5, "", "x", "x" * 5000, "../../x"),
    *("/etc/passwd", "\x1b[31m", "\u202e", "\0", "cpu", "digits", [], {}, [[]], [None], {"": 1}, {"x": {}}),
    *([1, "a", {}], ["x"] * 3000, "a" * 32, "0" * 32, "__import__('os').system('true')", "./code.py:Own"),
    *({"use": "./code.py:Own"}, {"name": "sit"}, {"name": "x"}),
)
NAMES = (
    *("notes", "notes.txt", ".env", ".DS_Store", "._000000.safetensors", "000000.safetensors~", "000001.json"),
    *("999999.json", "x.json", "new\nline", "\x1b[31mred", "\u202etxt", "[red]", "x" * 250, "a b", "-rf", "--", "*"),
    *("lost+found", "Thumbs.db", ".nfs0001", ".000000.safetensors.claim-0", ".tmp", "0" * 32, "0" * 32 + ".json"),
    *("0" * 32 + ".log", "-1.json", "1.json", "000001", "١.json"),
)


@dataclass
class Change:
    words: str
    where: str  # the place in the store
    lies: bool = False  # numbers may differ
    refused: bool = False  # a refusal that names the place is right, too


def change(store: Path, outside: Path, chance: random.Random) -> Change:
    files = sorted(path for path in store.rglob("*") if path.is_file() and not path.is_symlink())
    folders = sorted(path for path in store.rglob("*") if path.is_dir() and not path.is_symlink())
    if chance.random() < 0.35:
        return _lie(store, chance.choice(files), chance)
    if chance.random() < 0.35:
        return _foreign(store, chance.choice([store, *folders]), outside, chance)
    return _damage(store, chance.choice(files if chance.random() < 0.8 else folders), outside, chance)


def _place(store: Path, path: Path) -> str:
    return str(path.relative_to(store))


def _damage(store: Path, path: Path, outside: Path, chance: random.Random) -> Change:
    where, marker = _place(store, path), path.name == "nagbench.json"
    if path.is_file():
        data = path.read_bytes()
        place = chance.randrange(len(data) + 1)
        some = bytes(chance.randrange(256) for _ in range(chance.choice((1, 1, 8))))
        rewrites: dict[str, bytes] = {
            "emptied": b"",
            "cut": data[:place],
            "bytes flipped": data[:place] + some + data[place + len(some) :],
            "bytes put in": data[:place] + some + data[place:],
            "bytes behind": data + some,
            "zeros": data[:place] + bytes(len(data) - place),
            "not UTF-8": b"\xff\xfe" + data,
            "other JSON": chance.choice(
                (b"[]", b"{}", b"null", b"1", b'"x"', b"[" * 5000, b'{"checksum": []}', b"NaN", b"1e999")
            ),
            "of another file": chance.choice(sorted(p for p in store.rglob("*") if p.is_file())).read_bytes(),
        }
        if path.suffix == ".safetensors":
            length = chance.choice((0, 1, len(data), 2**31, 2**63, 2**64 - 1))
            rewrites["length of its header"] = struct.pack("<Q", length) + data[8:]
    else:
        rewrites = {}
    kinds = [
        *rewrites,
        "removed",
        "a folder",
        "a full folder",
        "a link",
        "a link to nowhere",
        "a link to itself",
        "a FIFO",
        "a socket",
        "/dev/zero",
        "renamed",
    ]
    kind = chance.choice(kinds)
    if kind in rewrites:
        path.unlink()
        path.write_bytes(rewrites[kind])
        return Change(f"{where}: {kind}", where, refused=marker)
    elsewhere = path.with_name(path.name + ".old")
    path.rename(elsewhere)
    kept = kind == "renamed" or (kind == "a link" and chance.random() < 0.5)
    if not kept:
        shutil.rmtree(elsewhere) if elsewhere.is_dir() else elsewhere.unlink()
    if kind in ("a folder", "a full folder"):
        path.mkdir()
        if kind == "a full folder":
            (path / "000000.safetensors").write_text("mine")
    elif kind == "a link":
        path.symlink_to(elsewhere if kept else outside)
    elif kind not in ("removed", "renamed"):
        _odd(path, kind)
    return Change(f"{where}: {kind}", where, refused=kind not in ("removed", "renamed"))


def _odd(path: Path, kind: str) -> None:
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        here = os.getcwd()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(short := path.parent / "s")) if len(str(path.parent)) < 100 else None
        if len(str(path.parent)) < 100:
            short.rename(path)
        assert os.getcwd() == here
    else:
        path.symlink_to({"a link to nowhere": "nowhere", "a link to itself": path.name, "/dev/zero": "/dev/zero"}[kind])


def _foreign(store: Path, folder: Path, outside: Path, chance: random.Random) -> Change:
    path = folder / chance.choice(NAMES)
    kinds = (
        "a file",
        "an old file",
        "a folder",
        "a full folder",
        "a link",
        "a link to nowhere",
        "a link to itself",
        "a FIFO",
        "a socket",
        "/dev/zero",
    )
    kind = chance.choice(kinds)
    words = f"{_place(store, path)!r} added: {kind}"
    if os.path.lexists(path):
        return Change(words + " (was there)", _place(store, path))
    if kind in ("a file", "an old file"):
        path.write_bytes(chance.choice((b"", b"mine", b"{}", b"[]", b"\xff", b'{"plan": "x"}')))
        if kind == "an old file":
            os.utime(path, (10**9, 10**9))
    elif kind in ("a folder", "a full folder"):
        path.mkdir()
        if kind == "a full folder":
            (path / chance.choice(NAMES)).write_text("mine")
    elif kind == "a link":
        path.symlink_to(outside)
    else:
        _odd(path, kind)
    return Change(words, _place(store, path), refused=True)


def _lie(store: Path, path: Path, chance: random.Random) -> Change:
    """A file that is whole and says something else."""
    where = _place(store, path)
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            made, words = _record(json.loads(data), chance)
        elif path.name == "network.safetensors":
            made, words = network(data, chance)
        else:
            made, words = _arrays(data, chance)
    except (ValueError, KeyError):  # no longer of its kind: a change before this one
        return Change(f"{where}: as it was", where)
    path.unlink()
    path.write_bytes(made)
    if where.startswith("plans/"):
        _rename_plan(store, path, made)
    elif where.startswith("files/"):
        _sealed_again(store, path, made)
    return Change(f"{where}: {words}", where, lies=True, refused=True)


def _record(record: Any, chance: random.Random) -> tuple[bytes, str]:
    if not isinstance(record, dict):
        raise ValueError
    record.pop("checksum", None)
    words = changed(record, chance)
    return sealed(record), words


def sealed(record: Any) -> bytes:
    return (canonical({**record, "checksum": checksum(canonical(record).encode())}) + "\n").encode()


def changed(document: Any, chance: random.Random) -> str:
    """Change one value of a JSON document in place, at any depth."""
    places = list(_places(document, ""))
    if not places:
        return "nothing"
    holder, key, words = chance.choice(places)
    kind = chance.choice(("replaced", "replaced", "replaced", "removed", "number", "more"))
    value = holder[key]
    if kind == "removed":
        del holder[key]
    elif kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = chance.choice((-value, value * 1000, value + 0.5, value * 10**18, 0))
    elif kind == "more" and isinstance(holder, dict):
        holder[chance.choice(("x", "", "\u202e", "../x", "name", "use"))] = chance.choice(VALUES)
    else:
        holder[key] = chance.choice(VALUES)
        kind = f"replaced by {json.dumps(holder[key])[:60]}"
    return f"{words} {kind}"


def _places(document: Any, words: str) -> Any:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield document, key, f"{words}.{key}"[:80]
        yield from _places(value, f"{words}.{key}")


def _arrays(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    import numpy as np

    arrays, record = unpack(data)
    if not arrays or chance.random() < 0.4:
        words = changed(record, chance)
        return pack(arrays, record), f"record {words}"
    name = chance.choice(sorted(arrays))
    array = arrays[name]
    wild: dict[str, Callable[[], Any]] = {
        "gone": lambda: None,
        "empty": lambda: array[:0],
        "short": lambda: array[: max(1, len(array) // 2)] if array.ndim else array,
        "long": lambda: np.concatenate([array, array]) if array.ndim else array,
        "flat": lambda: array.reshape(-1),
        "deeper": lambda: array[None],
        "float": lambda: array.astype(np.float64),
        "bytes": lambda: array.astype(np.uint8) if array.dtype.kind != "f" else np.zeros(array.shape, np.uint8),
        "NaN": lambda: np.full(array.shape, np.nan, np.float32),
        "infinite": lambda: np.full(array.shape, np.inf, np.float32),
        "negative": lambda: np.full(array.shape, -5, np.int64),
        "huge": lambda: np.full(array.shape, 2**62, np.int64),
        "other name": lambda: array,
    }
    kind = chance.choice(sorted(wild))
    made = wild[kind]()
    del arrays[name]
    if made is not None:
        arrays["x" if kind == "other name" else name] = made
    return pack(arrays, record), f"{name} {kind}"


def network(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A network whose description, table of tensors or weights lie."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if chance.random() < 0.7:
        description = json.loads(header["__metadata__"][KEY])
        words = changed(description, chance)
        header["__metadata__"][KEY] = json.dumps(description)
    else:
        words = changed(header, chance)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :], f"header {words}"


def _sealed_again(store: Path, path: Path, made: bytes) -> None:
    """The record beside a file names its content: let it name the new one."""
    for record_path in store.glob(f"records/*/{path.parent.name}.json"):
        try:
            record = json.loads(record_path.read_bytes())
            record.pop("checksum")
            record["files"][path.name] = checksum(made)
            record_path.write_bytes(sealed(record))
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue


def _rename_plan(store: Path, path: Path, made: bytes) -> None:
    """A plan is named by its content, and a sweep names its plans."""
    record = json.loads(made)
    name = record.get("checksum", "x")
    path.rename(path.with_name(f"{name}.json"))
    for entry in store.glob("sweeps/*/*.json"):
        try:
            entry.write_bytes(
                sealed({**{k: v for k, v in json.loads(entry.read_bytes()).items() if k != "checksum"}, "plan": name})
            )
        except (ValueError, AttributeError, OSError):
            continue
