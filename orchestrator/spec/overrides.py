"""Values in place of those of a sweep's file: `--set networks.sit.train.lr=1e-3`, or those of `open_sweep`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence

from orchestrator.display import brief
from orchestrator.errors import BadInput, SpecError, unknown
from orchestrator.spec.yaml_nodes import Node, parse, show, value_below

EXAMPLE = "networks.sit.train.lr=1e-3"
NAMES = {"networks": "network", "arms": "arm"}  # sections whose keys are names: an option changes one, and adds none


def tree_of(text: str, file: str, overrides: Sequence[str] = ()) -> Node:
    """The tree of a sweep's YAML, with the values of the command line in their places. Raises SpecError."""
    root = parse(text, file)
    given: set[str] = set()
    for each in overrides:
        key = each.partition("=")[0].strip()
        if key in given:
            raise BadInput(f"--set {brief(each)}: {key} is set twice; give it once.")
        given.add(key)
        _put(root, each)
    return root


def _put(root: Node, text: str) -> None:
    """Put one value, `KEY=YAML`, into the tree."""
    option, (path, equals, value) = f"--set {brief(text, 120)}", text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BadInput(f"{option}: expected KEY=VALUE, such as {EXAMPLE}.")
    node = root
    for number, key in enumerate(keys):
        if not isinstance(node.value, dict):
            whole = f"set it as a whole, --set {node.path}=..." if node.path else "a sweep is a mapping"
            raise SpecError(option, None, node.path, f"it is {show(node)}, which has no keys; {whole}.")
        if key not in node.value and node.path in NAMES:
            raise SpecError(option, None, node.path, unknown(NAMES[node.path], key, node.value))
        child = node.value.get(key)
        if number == len(keys) - 1:
            node.value[key] = value_below(node, key, value.strip(), option)
        elif child is None or child.value is None:
            node.value[key] = Node({}, node.file, node.line, node, key, option)
        node = node.value[key]


def check_named(sweep: str, overrides: Sequence[str]) -> None:
    """Raise BadInput for values in place of those of a sweep that is named in a store."""
    if overrides:
        raise BadInput(f"--set {overrides[0]}: {sweep} is a name in the store, whose values are fixed; name its file.")


def noted(text: str, overrides: Sequence[str]) -> str:
    """The YAML of a sweep, with a comment at its end for each value that the command line gave."""
    if not overrides:
        return text
    lines = (f"# --set {' '.join(each.split())}" for each in overrides)
    return "\n".join([text.rstrip("\n"), "# Values that the command line gave in place of these:", *lines, ""])


def options(overrides: Sequence[str]) -> str:
    """The options, as a shell takes them: `--set networks.sit.train.lr=1e-3`."""
    return " ".join(f"--set {shlex.quote(each)}" for each in overrides)


def mistake_at(file: str, text: str, keys: tuple[str, ...], message: str, overrides: Sequence[str] = ()) -> SpecError:
    """The error for a value found wrong after the file was read, with its line or that of its nearest parent."""
    node: Node | None = None
    with contextlib.suppress(BadInput):  # without a text there are no lines
        node = tree_of(text, file, overrides)
    for key in keys:
        inside = node.value if node is not None else None
        node = inside.get(key, node) if isinstance(inside, dict) else node
    if node is not None and node.option:
        return SpecError(node.option, None, ".".join(keys), message)
    return SpecError(file or "the sweep", node.line if node else None, ".".join(keys), message)
