"""Sweep and site files with one to three changes: of their structure (keys, values, types) or of their bytes."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from nag.registry import METHODS, find
from tests.orchestrator.users_files import GUIDANCE


@dataclasses.dataclass
class Raw:
    """A word of YAML as it stands in the file."""

    text: str


class Map(list[list[Any]]):
    """A mapping as [key, value] pairs: keys may be repeated, or be anything."""


def read(text: str) -> Any:
    return _tree(yaml.compose(text, yaml.BaseLoader))


def _tree(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return Map([_tree(key), _tree(value)] for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item) for item in node.value]
    return json.dumps(node.value) if node.style else Raw(node.value)


def write(tree: Any) -> str:
    """Two levels as blocks, so that most values have a line of their own; the rest in braces."""
    if not isinstance(tree, Map) or not tree:
        return flow(tree) + "\n"
    lines = []
    for key, value in tree:
        if isinstance(value, Map) and value:
            lines.append(f"{flow(key)}:")
            lines += [f"  {flow(inner)}: {flow(each)}" for inner, each in value]
        else:
            lines.append(f"{flow(key)}: {flow(value)}")
    return "\n".join(lines) + "\n"


def flow(tree: Any) -> str:
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Map):
        return "{" + ", ".join(f"{flow(key)}: {flow(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(flow, tree)) + "]"
    return tree if isinstance(tree, str) else json.dumps(tree)  # texts are quoted already


def quoted(text: str) -> str:
    return json.dumps(text)


WORDS = (
    *("null", "~", "true", "false", "yes", "off", "0", "-0", "-1", "1", "2", "7", "0.5", "-0.5", "1e-320", "1e308"),
    *("-1e308", "1e309", "2147483648", "9223372036854775807", "9223372036854775808", "1" + "0" * 30, ".nan", ".inf"),
    *("-.inf", "012", "0x10", "0o17", "1_000", "1:30", "2026-01-01", "1e3", "100000000", "100000001"),
    *("1000000000000", '""', '" "', "{}", "[]", "[[]]", "{grid: []}", "{grid: 1}", "{grid: [1]}", "{grid: [null]}"),
    *("{grid: [1, 1]}", "{grid: [1, a, {}]}", "{grid: [[1], [2]]}", "{grid: [{grid: [1, 2]}]}"),
    *("{grid: {grid: [1]}}", "{name: null}", "{name: {}}", "{name: [euler]}", "{use: ./code.py:Own}"),
    *("{use: ./code.py:Nothing}", "{use: ./missing.py:Own}", "{use: code.py}", "{use: /dev/zero:Own}"),
    *("{use: ./broken.py:Own}", "{use: ./leaves.py:Own}", "{use: odd/fifo:Own}", "{use: null}"),
    *("{use: ../odd/folder:Own}", "!!python/object/apply:os.system [true]", "!x 1", "&a [*a]", "*nothing", "<<"),
    *("? x", "- x", "|", ">-", "%", "@x", "`x`"),
)
TEXTS = (
    *("x" * 300, "x" * 5000, "é", "\N{DIGIT TWO}", "🙂", "\0", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07"),
    *("\u202etxt.exe", "\u200b", "a\nb", "a\rb", "a\tb", "\x7f", "\x85", "\ufeff", "\ufffe", "a: b", "#", "'", '"'),
    *("{0}", "%s", "%(x)s", "$HOME", "`id`", "[red]x[/red]", "[/]", "[link=file:///etc/passwd]x[/link]", "=1+1", "-"),
    *(".", "..", "/", "a/b", "../../x", "CON", "nul", " x ", "٣", "１２", "1 000", "1,5", "NaN", "None", "True"),
    *("__class__", "__init__", "__dict__", "self", "name", "grid", "use"),
)
PATHS = (
    *("odd/fifo", "odd/socket", "odd/folder", "odd/loop", "odd/empty", "odd/zero", "odd/text.npz", "odd/dangling"),
    *("odd/bytes", "odd/picture.png", "odd/cut.safetensors", "odd/hole.safetensors", "odd/data.npz", "odd/empty.npz"),
    *("odd/object.npz", "/dev/zero", "/dev/null", "/dev/stdin", "/dev/full", "/proc/self/mem", "/proc/self/cmdline"),
    *("/", "~", "~nobody/x", ".", "x" * 300 + "/y", "/".join(["x"] * 3000), "a\0b", "odd/none", "odd/none/none"),
    *("odd/empty/x", "file:///dev/zero", "file:odd/empty", "reference://x.npz::file://odd/refs.json"),
    *("zip://x::odd/data.npz", "simplecache::file://odd/empty", "memory://x", "ftp://127.0.0.1:9/x"),
    *("http://127.0.0.1:9/x.npz", "http://[::1]:9/x", "http://x y/", "https://", "github://a:b@/x", "gs://", "az://"),
    *("hf://", "s3:x", "s4://x", "dir://x", "local://odd/empty", "data:,x", "root://x", "::", "a::b", "://", "//x"),
    *("file://user:secret@host/x", "http://user:secret@127.0.0.1:9/x.npz", "http://127.0.0.1:9/x?token=secret"),
)


PATH_KEYS = (
    "path",
    "checkpoint",
    "published",
    "reference",
    "weights",
    "file",
    "use",
    "vae",
    "env_file",
    "folder",
    "scratch",
)


def _methods() -> list[tuple[str, str, list[str]]]:
    found = []
    for family, names in METHODS.items():
        for name in names:
            fields = getattr(find(family, name), "__dataclass_fields__", {})
            found.append((family, name, list(fields)))
    return found


METHOD_LIST = _methods()


class Changes:
    """Changes of a tree. `corpus`: trees whose keys and values may turn up anywhere."""

    def __init__(self, corpus: Iterable[Any]) -> None:
        self.keys: list[Any] = []
        self.values: list[Any] = []
        for tree in corpus:
            for holder, index in slots(tree):
                value = holder[index][1] if isinstance(holder, Map) else holder[index]
                self.values.append(value)
                if isinstance(holder, Map):
                    self.keys.append(holder[index][0])

    def odd(self, chance: random.Random, key: str = "") -> Any:
        """A value that nobody expects; where a path stands, mostly an odd path."""
        if key in PATH_KEYS and chance.random() < 0.7:
            return quoted(chance.choice(PATHS))
        kind = chance.random()
        if kind < 0.40:
            return Raw(chance.choice(WORDS))
        if kind < 0.55:
            return quoted(chance.choice(TEXTS))
        if kind < 0.70:
            return quoted(chance.choice(PATHS))
        if kind < 0.80:
            return copied(chance.choice(self.values))
        if kind < 0.90:
            return self.method(chance)
        if kind < 0.94:
            return Map([Raw("grid"), [self.odd(chance) for _ in range(chance.choice((1, 2, 3)))]] for _ in range(1))
        return self.large(chance)

    def large(self, chance: random.Random) -> Any:
        number = chance.choice((60, 300, 3000))
        return Raw(
            chance.choice(
                (
                    "[" * number + "]" * number,
                    "{a: " * number + "1" + "}" * number,
                    "{grid: [" + ", ".join(map(str, range(number))) + "]}",
                    "[" + ", ".join(f"{{name: x{i}}}" for i in range(number)) + "]",
                    "{" + ", ".join(f"k{i}: {i}" for i in range(number)) + "}",
                    "9" * number,
                    "0." + "1" * number,
                    f"[&a [1, 1], &b [{'*a, ' * 9}], &c [{'*b, ' * 9}], &d [{'*c, ' * 99}], [{'*d, ' * 99}]]",
                )
            )
        )

    def method(self, chance: random.Random) -> Any:
        """Some method with some of its fields, of any family: often where it does not belong."""
        _, name, fields = chance.choice(METHOD_LIST)
        chosen = chance.sample(fields, min(len(fields), chance.randrange(4)))
        return Map([[Raw("name"), Raw(name)], *([Raw(field), self.odd(chance)] for field in chosen)])

    def one(self, tree: Any, chance: random.Random) -> str:
        """Change a tree in one place; returns what was done."""
        found = list(slots(tree))
        if not found:
            return "nothing"
        paths = [at for at in found if isinstance(at[0], Map) and flow(at[0][at[1]][0]) in PATH_KEYS]
        holder, index = chance.choice(paths if paths and chance.random() < 0.15 else found)
        pair = isinstance(holder, Map)
        key = flow(holder[index][0])[:40] if pair else f"[{index}]"

        def put(value: Any) -> None:
            if pair:
                holder[index][1] = value
            else:
                holder[index] = value

        value = holder[index][1] if pair else holder[index]
        kinds: dict[str, Callable[[], Any]] = {
            "delete": lambda: holder.pop(index),
            "repeat": lambda: holder.insert(chance.randrange(len(holder) + 1), copied(holder[index])),
            "replace": lambda: put(self.odd(chance, key)),
            "number": lambda: put(_number(value, chance)),
            "wrap": lambda: put(
                chance.choice(([value], Map([[Raw("grid"), [value, self.odd(chance)]]]), Map([[Raw("name"), value]])))
            ),
            "unwrap": lambda: put(
                value[0][1]
                if isinstance(value, Map) and value
                else value[0]
                if isinstance(value, list) and value
                else Raw("null")
            ),
        }
        weights = {"delete": 2, "repeat": 1, "replace": 6, "number": 2, "wrap": 1, "unwrap": 1}
        if pair:
            kinds["rename"] = lambda: holder[index].__setitem__(0, self.key(holder[index][0], chance))
            kinds["insert"] = lambda: holder.insert(index, [copied(chance.choice(self.keys)), self.odd(chance)])
            field = _field(holder, chance)
            kinds["field"] = lambda: holder.insert(index, [Raw(field), self.odd(chance, field)])
            weights |= {"rename": 2, "insert": 2, "field": 4}
        kind = chance.choices(list(weights), list(weights.values()))[0]
        kinds[kind]()
        return f"{kind} {key}"

    def key(self, key: Any, chance: random.Random) -> Any:
        text = flow(key)
        place = chance.randrange(len(text) + 1)
        return chance.choice(
            (
                Raw(text[:place] + text[place + 1 :] or "x"),
                Raw(text[:place] + "x" + text[place:]),
                copied(chance.choice(self.keys)),
                quoted(chance.choice(TEXTS)),
                Raw(chance.choice(WORDS)),
            )
        )


def _field(holder: Map, chance: random.Random) -> str:
    """A field of the method that this mapping names, or of any."""
    names = [flow(value) for key, value in holder if flow(key) == "name"]
    fitting = [fields for _, name, fields in METHOD_LIST if name in names and fields]
    fields = chance.choice(fitting) if fitting else chance.choice([f for _, _, f in METHOD_LIST if f])
    return chance.choice(fields)


def _number(value: Any, chance: random.Random) -> Any:
    try:
        number = float(flow(value))
    except ValueError:
        return Raw(chance.choice(WORDS))
    other = chance.choice(
        (number * 1000, -number, number + 0.5, number * 1e300, number / 1e300, number + 1, 0.0, 1 - number)
    )
    return Raw(repr(int(other)) if chance.random() < 0.5 and abs(other) < 1e18 else repr(other).replace("inf", ".inf"))


def copied(tree: Any) -> Any:
    if isinstance(tree, Map):
        return Map([copied(key), copied(value)] for key, value in tree)
    return [copied(item) for item in tree] if isinstance(tree, list) else tree


def slots(tree: Any) -> Iterable[tuple[Any, int]]:
    """Every place of a tree where a value stands."""
    if isinstance(tree, Map):
        for index, (_, value) in enumerate(tree):
            yield tree, index
            yield from slots(value)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield tree, index
            yield from slots(value)


def structure(tree: Any, changes: Changes, chance: random.Random) -> tuple[bytes, str]:
    tree = copied(tree)
    done = [changes.one(tree, chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    return write(tree).encode(errors="surrogatepass"), ", ".join(done)


def text(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Bytes of a file changed without regard for what they mean."""
    lines = data.split(b"\n")
    place, line = chance.randrange(len(data)), chance.randrange(len(lines))
    some = bytes(chance.randrange(256) for _ in range(chance.choice((1, 1, 4, 40))))
    mark = chance.choice(b"{}[],:#&*!|>'\"%@`-?\t\r\n\0\xff\xef \\~").to_bytes()
    kind = chance.randrange(16)
    if kind == 0:
        return data[:place], f"cut at {place}"
    if kind == 1:
        return data[:place] + some + data[place + len(some) :], f"bytes at {place}"
    if kind == 2:
        return data[:place] + some + data[place:], f"more bytes at {place}"
    if kind < 7:
        return data[:place] + mark + data[place + kind % 2 :], f"{mark!r} at {place}"
    if kind == 7:
        return b"\n".join([*lines[:line], *lines[line + 1 :]]), f"line {line + 1} away"
    if kind == 8:
        return b"\n".join([*lines[: line + 1], *lines[line:]]), f"line {line + 1} twice"
    if kind == 9:
        lines[line] = b" " * chance.choice((1, 2, 3, 8)) + lines[line]
        return b"\n".join(lines), f"line {line + 1} moved in"
    if kind == 10:
        lines[line] = lines[line].lstrip()
        return b"\n".join(lines), f"line {line + 1} moved out"
    if kind == 11:
        return data.replace(
            b"\n", chance.choice((b"\r\n", b"\r", b"\x0b", b"\xe2\x80\xa8", b"\n\n"))
        ), "other line ends"
    if kind == 12:
        start = chance.choice(
            (b"\xef\xbb\xbf", b"\xff\xfe", b"%YAML 1.1\n---\n", b"---\n", b"--- !x\n", b"\x1b[2J", b"\t")
        )
        return start + data, f"{start!r} before it"
    if kind == 13:
        other = chance.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-be"))
        return data.decode(errors="replace").encode(other), "another encoding"
    if kind == 14:
        end = chance.choice(
            (b"\n...\n", b"\n---\n", b"\n--- {}\n", b"\0", b"#" * 10**6, b"\n" * 10**6, b" " * 10**6, b'\n"')
        )
        return data + end, f"{end[:8]!r} behind it ({len(end)} bytes)"
    other = chance.randrange(len(lines))
    lines[line], lines[other] = lines[other], lines[line]
    return b"\n".join(lines), f"lines {line + 1} and {other + 1} changed places"


def odd_files(folder: Path) -> None:
    """What PATHS and WORDS name: things at which a program may hang, or which are not what they say."""
    import os
    import socket
    import struct

    import numpy as np

    odd = folder / "odd"
    odd.mkdir()
    os.mkfifo(odd / "fifo")
    here = os.getcwd()
    os.chdir(odd)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    os.chdir(here)
    (odd / "folder").mkdir()
    (odd / "loop").symlink_to("loop")
    (odd / "dangling").symlink_to("none")
    (odd / "zero").symlink_to("/dev/zero")
    (odd / "empty").touch()
    (odd / "empty.npz").touch()
    (odd / "bytes").write_bytes(bytes(range(256)) * 40)
    (odd / "text.npz").write_text("no archive")
    (odd / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    (odd / "refs.json").write_text(json.dumps({"version": 1, "refs": {"x.npz": "base64:AAAA"}}))
    (odd / "cut.safetensors").write_bytes(struct.pack("<Q", 10**6) + b"{}")
    with open(odd / "hole.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 2**33) + b"{")
        file.truncate(2**34)
    np.savez(odd / "data.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.zeros(4, np.int64))
    np.savez(odd / "object.npz", images=np.array([{"a": 1}], dtype=object))
    (folder / "code.py").write_text(CODE)
    (folder / "broken.py").write_text("def (\n")
    (folder / "leaves.py").write_text("raise SystemExit(7)\n")


CODE = GUIDANCE.replace("LateNAG", "Own")
