"""A YAML file as a tree of nodes that know their line and key path.

PyYAML parses the syntax; the type of a plain scalar is decided here, by a strict form of the YAML 1.2 core schema:
2e-3 is a number, only true and false are booleans, 012 is an error, `off` and 1:30 are text. The only types are None,
bool, int, float, str, list and dict; tags, merge keys and repeated keys are errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nag.locations import irregular
from orchestrator.display import brief
from orchestrator.errors import BadInput, SpecError, unknown

MAX_BYTES = 1_000_000
MAX_NODES, MAX_TEXT = 100_000, 1_000_000  # after anchors are expanded; MAX_TEXT: characters in all scalars
MAX_DEPTH = 50
MAX_WHOLE = 2**63 - 1

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"([-+]?)0([0-9]+)((\.[0-9]*)?([eE][-+]?[0-9]+)?)")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# PyYAML's messages for syntax errors, and clearer ones with a fix.
_PLAIN_WORDS = (
    (r"found character '\\t'", "a tab; indent with spaces"),
    (r"found character (.+) that cannot start", r"a value cannot start with \1; put it in quotes"),
    (
        r"mapping values are not allowed",
        "a ':' cannot stand here; check this line and the one above, or put the text in quotes",
    ),
    (r"expected <block end>", "this line is not aligned with the ones above it; check the indentation"),
    (r"expected ',' or '([]}])'", r"a ',' or the closing '\1' is missing, here or above"),
    (r"found unexpected end of stream|found unexpected document separator", "a quote is never closed"),
    (r"could not find expected ':'", "this line has no ':' after its key"),
    (r"found undefined alias '?([^']*)'?", r"there is no anchor &\1 above this line"),
    (r"found duplicate anchor '?([^';]*)'?", r"the anchor &\1 is already taken"),
    (r"found another document", "a second document begins here; a sweep file holds one (remove the '---')"),
    (r"found undefined tag handle", "tags (!name) are not allowed"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value of the file, with its place: a scalar, a list of nodes or a dict of nodes.

    option: the command-line option that gave it instead of the file.
    """

    value: Any
    file: str
    line: int  # of the key, for the value of a mapping
    parent: Node | None = None
    step: str | int = ""  # from the parent: a key, or an index in a list
    option: str = ""

    @property
    def path(self) -> str:
        """The key path, such as arms.cfg.cfg.scale. It is built only for messages, to save memory."""
        steps, node = [], self
        while node.parent is not None:
            steps.append(f"[{node.step}]" if isinstance(node.step, int) else f".{brief(node.step)}")
            node = node.parent
        return "".join(reversed(steps)).removeprefix(".")

    @property
    def place(self) -> str:
        """Where the user wrote it: `sweeps/x.yaml:14`, or `--set sample.count=100`."""
        return self.option or f"{self.file}:{self.line}"

    def error(self, message: str) -> SpecError:
        return SpecError(self.option or self.file, None if self.option else self.line, self.path, message)

    def get(self, key: str) -> Node | None:
        """The value of `key` in a mapping; None if it is missing or null."""
        child = self.value.get(key)
        return None if child is None or child.value is None else child

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error(f"expected text, got {show(self)}.")
        return self.value

    def mapping(self, example: str) -> dict[str, Node]:
        if not isinstance(self.value, dict):
            raise self.error(f"expected a mapping such as {example}, got {show(self)}.")
        return self.value

    def entries(self, example: str) -> list[Node]:
        if not isinstance(self.value, list) or not self.value:
            raise self.error(f"expected a list such as {example}, got {show(self)}.")
        return self.value

    def only(self, known: Iterable[str]) -> None:
        """Raise for the first unknown key."""
        for key, child in self.value.items():
            if key not in known:
                place = dataclasses.replace(self, line=child.line, option=child.option)
                raise place.error(unknown("key", key, known))


def show(node: Node) -> str:
    """A value, for a message."""
    match node.value:
        case dict():
            return "a mapping" if node.value else "an empty mapping"
        case list():
            return "a list" if node.value else "an empty list"
        case None:
            return "nothing"
        case bool():
            return "true" if node.value else "false"
        case str() if len(node.value) > 60:
            return f"{node.value[:60]!r}..."
    return repr(node.value).removesuffix(".0")


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


SWEEP = ("sweep", "A sweep needs name, networks and arms.")  # the kind of file, and its required keys


def read_text(path: str | Path, kind: tuple[str, str] = SWEEP) -> str:
    """The text of a sweep or another kind of file. Raises BadInput for an invalid one."""
    what, needs = kind
    path = Path(path)
    if irregular(path) == "a named pipe" and path.parts[1:2] not in (("dev",), ("proc",)):  # allowed: a shell's <(...)
        raise BadInput(f"{path}: this is a named pipe; give one {what} file.")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file.{_near(path)}") from None
    except IsADirectoryError:
        sweeps = sorted(path.glob("*.yaml"))
        example = f", such as {sweeps[0]}" if sweeps else ""
        raise BadInput(f"{path}: this is a directory; give one {what} file{example}.") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise BadInput(f"{path}: this is not a {what} file: it is over {MAX_BYTES // 1_000_000} MB.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path}: this is not a {what} file: it is not UTF-8 text (byte {error.start}, line {line})."
        ) from None
    if "\0" in text:
        raise BadInput(f"{path}: this is not a {what} file: it is binary.")
    if not text.strip():
        raise BadInput(f"{path}: the file is empty. {needs}")
    return text


def _near(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.glob("*.y*ml")]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / close[0]}?" if close else ""


def parse(text: str, file: str, kind: tuple[str, str] = SWEEP) -> Node:
    """The tree of a YAML text. Raises SpecError with the line. `file`: the name in messages."""
    root = _composed(text, file)
    if root is None:
        raise BadInput(f"{file}: the file is empty. {kind[1]}")
    return _Tree(file).node(root, root.start_mark.line + 1, None, "", 0)


def value_below(parent: Node, key: str, text: str, option: str) -> Node:
    """The value of `key` of a mapping, from YAML that a command-line option gives. Raises SpecError."""
    absent = Node(None, parent.file, parent.line, parent, key, option)
    try:
        source = _composed(text, option)
    except SpecError as error:
        raise absent.error(error.message) from None
    if source is None:
        raise absent.error("a value is missing after '='.")
    return _Tree(parent.file, option).node(source, parent.line, parent, key, 1)


def _composed(text: str, file: str) -> yaml.Node | None:
    """PyYAML's tree of a text; None if it is empty."""
    try:
        return _Composer(text, file).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(file, line, "", f"the character {chr(ord(text[error.position]))!r} is not allowed.") from None
    except yaml.MarkedYAMLError as error:
        quote = error.context_mark if "quoted scalar" in (error.context or "") else None  # the opening quote
        mark = quote or error.problem_mark
        raise SpecError(file, mark.line + 1 if mark else None, "", _plain_words(error)) from None


def _plain_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    for pattern, words in _PLAIN_WORDS:
        if matched := re.search(pattern, problem):
            opened = error.context_mark.line + 1 if "flow" in (error.context or "") and error.context_mark else None
            return matched.expand(words) + (f"; it was opened on line {opened}." if opened else ".")
    return f"this is not YAML: {problem}."


class _Composer(yaml.SafeLoader):
    """SafeLoader's parser without its constructors: no implicit tags, limited depth and size."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file, self.depth, self.count = file, 0, 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return None

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.count += 1
        _limit(self.file, self.peek_event().start_mark.line + 1, self.depth, self.count)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _limit(file: str, line: int, depth: int, count: int) -> None:
    if depth > MAX_DEPTH:
        raise SpecError(file, line, "", f"it is nested deeper than {MAX_DEPTH} levels.")
    if count > MAX_NODES:
        raise SpecError(file, line, "", f"it has over {MAX_NODES:,} values, counting each use of an anchor.")


class _Tree:
    """Converts PyYAML's nodes to Nodes, and each alias to a copy, so that every node has one path."""

    def __init__(self, file: str, option: str = "") -> None:
        self.file, self.option, self.count, self.text = file, option, 0, 0

    def at(self, value: Any, line: int, parent: Node | None, step: str | int) -> Node:
        return Node(value, self.file, line, parent, step, self.option)

    def node(self, source: yaml.Node, line: int, parent: Node | None, step: str | int, depth: int) -> Node:
        self.count += 1
        _limit(self.file, line, depth, self.count)
        if source.tag is not None:
            tag = source.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            raise self.at(None, line, parent, step).error(f"tags are not allowed: {tag}. Write the plain value.")
        if isinstance(source, yaml.SequenceNode):
            node = self.at([], line, parent, step)
            for number, item in enumerate(source.value):
                node.value.append(self.node(item, item.start_mark.line + 1, node, number, depth + 1))
        elif isinstance(source, yaml.MappingNode):
            node = self.at({}, line, parent, step)
            self.mapping(source, node, depth)
        else:
            try:
                node = self.at(self.scalar(source), line, parent, step)
            except ValueError as error:
                raise self.at(None, line, parent, step).error(str(error)) from None
        return node

    def scalar(self, source: yaml.ScalarNode) -> bool | int | float | str | None:
        self.text += len(source.value)
        if self.text > MAX_TEXT:
            raise ValueError(f"the file has over {MAX_TEXT:,} characters, counting each use of an anchor.")
        return source.value if source.style else self.plain(source.value)

    def mapping(self, source: yaml.MappingNode, parent: Node, depth: int) -> None:
        values: dict[str, Node] = parent.value
        for key_source, value_source in source.value:
            line = key_source.start_mark.line + 1
            node = self.node(key_source, line, parent.parent, parent.step, depth + 1)  # placed at the mapping
            key = node.value
            if not isinstance(key, str):
                raise node.error(f"a key must be text, not {show(node)}. Put it in quotes if text is meant.")
            if key == "<<":
                raise node.error("'<<' is not allowed. Write the keys out, or use an alias (*name).")
            if key in values:
                raise node.error(f"repeated key {brief(key)!r}; it is already on line {values[key].line}.")
            shown = key if key.isprintable() else repr(key)
            values[key] = self.node(value_source, line, parent, shown, depth + 1)

    def plain(self, text: str) -> bool | int | float | str | None:
        """The value of a plain (unquoted) scalar. Raises ValueError with the message for the user."""
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if zero := _LEADING_ZERO.fullmatch(text):
            number = f"{zero[1]}{zero[2].lstrip('0') or 0}{zero[3]}"
            raise ValueError(f"{text[:30]} has a leading zero. Write {number[:30]}, or quotes if text is meant.")
        if _NOT_FINITE.fullmatch(text):
            raise ValueError(f"{text} is not allowed: a number must be finite.")
        if _WHOLE.fullmatch(text):
            if len(text) > 20 or abs(int(text)) > MAX_WHOLE:
                raise ValueError(f"{text[:30]} is too large for a whole number (64 bits).")
            return int(text)
        if is_number(text):
            value = float(text) + 0.0  # -0.0 is 0.0: equal values must have equal digests
            if math.isinf(value):
                raise ValueError(f"{text[:30]} is too large for a number.")
            return value
        return text
