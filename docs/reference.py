"""The parts of the site that are made from the code: every key of a sweep, every option, every cause of failure.

They are made when the site is built (docs/hooks.py), from the registry, the fields of its classes, the schema of
`nagbench init` and the commands themselves. So they cannot be out of date, and a new method needs no page.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import typer
from pydantic import TypeAdapter

from nag.guidance.schedule import Schedule
from nag.guidance.terms import Interval
from nag.numerics import Precision
from nag.registry import METHODS, find
from nag.training import PRESETS, Training
from orchestrator.cli import COMMANDS
from orchestrator.commands.app import app
from orchestrator.execution import failure_causes
from orchestrator.spec.equal_price import Budget
from orchestrator.spec.grid import GRID
from orchestrator.spec.model import Sample, Tune
from orchestrator.spec.reference_file import Published
from orchestrator.spec.template import schema

Schema = dict[str, Any]
HIDDEN = {"made_up"}  # stand-ins of smoke runs
FAMILIES = {  # family: its heading, and the key under which a sweep names its methods
    "datasets": ("Data sets", "`networks.NAME.data`"),
    "models": ("Networks", "`networks.NAME.model`"),
    "interpolants": ("Interpolants", "`networks.NAME.interpolant`"),
    "preconditions": ("Preconditions", "`networks.NAME.precondition`"),
    "autoencoders": ("Autoencoders", "`networks.NAME.autoencoder`, `score.decode`"),
    "samplers": ("Samplers", "`sampler`, or `sampler` in an arm"),
    "guidance": ("Guidance", "the name itself is the key in an arm: `nag: {scale: 2}`"),
    "features": ("Feature extractors", "`score.features`"),
    "metrics": ("Metrics", "`score.metrics`"),
    "measures": ("Measures", "`measure`"),
}
SHARED = {"Interval": "interval", "Schedule": "schedule", "Precision": "precision"}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
LIMITS |= {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # pydantic's words
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
WORDS |= {"array": "list", "object": "mapping"}
PARTS = {  # keys whose values have a section of their own
    **{"networks": "a-network-networksname", "arms": "an-arm-armsname", "data": "data-sets", "model": "networks"},
    **{"interpolant": "interpolants", "precondition": "preconditions", "autoencoder": "autoencoders", "train": "train"},
    **{"sampler": "samplers", "sample": "sample", "score": "score", "tune": "tune", "compare": "compare"},
    **{"precision": "precision", "features": "feature-extractors", "metrics": "metrics", "measure": "measures"},
    **{"decode": "autoencoders", "reference": "scorereference-a-file"},
}
HEAD = ("key", "value", "default", "what it is")


def sweep_keys() -> str:
    """Every key of a sweep file, then every method of the registry with its fields."""
    keys = schema()
    top, parts = keys["properties"], keys["definitions"]["network"]
    arm = top["arms"]["additionalProperties"]["properties"]
    own = {key: value for key, value in arm.items() if key not in METHODS["guidance"]}
    lines = ["## Top level", *_keys(top, keys["required"])]
    lines += ["## A network: `networks.NAME`", *_keys(parts)]
    lines += ["### `train`", f"`preset: NAME` takes a published recipe: `{'`, `'.join(PRESETS)}`.", *fields(Training)]
    lines += ["## `sample`", *fields(Sample)]
    lines += ["## `score`", *_keys(top["score"]["properties"], top["score"]["required"])]
    lines += ["### `score.reference`, a file", *fields(Published), "## `tune`", *fields(Tune)]
    lines += ["## `compare`", *_keys(top["compare"]["properties"]), "## `precision`", *fields(Precision)]
    lines += ["## An arm: `arms.NAME`", "Besides these, any [guidance](#guidance) by its name.", *_keys(own)]
    lines += ["### `interval`", *fields(Interval), "### `schedule`", *fields(Schedule)]
    for family, (heading, where) in FAMILIES.items():
        lines += [f"## {heading}", f"Key: {where}."]
        lines += ["`nfe` may stand in place of `steps`:", *fields(Budget)] if family == "samplers" else []
        for name in [name for name in METHODS[family] if name not in HIDDEN]:
            lines += [f"### `{name}`", *_class(find(family, name))]
    return _joined(lines)


def command_options() -> str:
    """Every command with its arguments and options, in the order of --help."""
    for name in COMMANDS:
        importlib.import_module(f"orchestrator.commands.{name}")
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return _joined(line for name in COMMANDS for line in _command(name, commands[name]))


def failure_table() -> str:
    """The causes of failed tasks, as the docstring of failure_causes.py has them."""
    rows = re.findall(r"(?m)(?:^| {2,})([a-z_]+) {2,}(\S.*?)(?= {2,}|$)", (failure_causes.__doc__ or ""))
    return _joined(_table(("cause", "what it means"), [(f"`{cause}`", words) for cause, words in rows]))


GENERATED: dict[str, Callable[[], str]] = {
    "sweep keys": sweep_keys,
    "commands": command_options,
    "causes": failure_table,
}


def _command(name: str, command: Any) -> list[str]:
    """A command's usage, its help and its parameters, as typer knows them."""
    usage, rows = [f"nagbench {name}"], []
    for parameter in command.params:
        flag = getattr(parameter, "is_flag", False)
        if parameter.opts[0].startswith("-"):
            shown = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
        else:
            shown = parameter.metavar or parameter.name.upper()
            usage.append(shown if parameter.required else f"[{shown}]")
            shown = f"`{shown}`"
        given = isinstance(parameter.default, str | int | float) and not flag
        rows.append((shown, f"`{parameter.default}`" if given else "", _plain(parameter.help or "")))
    words = _plain(" ".join((command.help or "").split()))
    return [
        *(f"### `{name}`", words, f"```text\n{' '.join(usage)} [OPTIONS]\n```"),
        *_table(("option", "default", "what it does"), rows),
    ]


def _class(cls: type) -> list[str]:
    """The first paragraph of a class's docstring, and the table of its fields."""
    return [_plain(_paragraphs(cls)[0]), *fields(cls)]


def fields(cls: type) -> list[str]:
    """A table with the fields of a method: type and range, default, and what its docstring says."""
    described = TypeAdapter(cls).json_schema()
    required = described.get("required", ())
    rows = []
    for key, value in described.get("properties", {}).items():
        standard = "required" if key in required else _default(value)
        rows.append((f"`{key}`", _value(value), standard, _plain(about(cls, key))))
    return _table(HEAD, rows) if rows else ["It has no keys of its own."]


def about(cls: type, name: str) -> str:
    """What a class says of a field: `name: text` in its docstring or that of a base, else the comment behind the
    field, else the sentence with `name` in backticks. "" if it says nothing.
    """
    names = "|".join(field.name for field in dataclasses.fields(cls))
    label = re.compile(rf"(?<!\S)((?:(?:{names}), )*(?:{names})): ")
    for paragraph in itertools.chain.from_iterable(_paragraphs(base) for base in cls.__mro__[:-1]):
        _, *pairs = label.split(paragraph)
        for labelled, text in zip(pairs[::2], pairs[1::2], strict=True):
            if name in (labels := labelled.split(", ")):
                each = text.strip().rstrip(".").split(", ")  # "a, b: what a is, what b is."
                return each[labels.index(name)] if len(each) == len(labels) and ". " not in text else text.strip()
    for base in cls.__mro__[:-1]:
        with_comment = re.search(rf"(?m)^    {name}: .*?  # (.+)$", _source(base))
        if with_comment:
            return with_comment[1]
    for paragraph in itertools.chain.from_iterable(_paragraphs(base) for base in cls.__mro__[:-1]):
        for sentence in re.split(r"(?<=[.]) ", paragraph):
            if f"`{name}`" in sentence:
                return sentence
    return ""


@functools.cache
def _source(cls: type) -> str:
    return inspect.getsource(cls) if cls.__module__.startswith(("nag.", "orchestrator.")) else ""


def _keys(properties: Schema, required: Iterable[str] = ()) -> list[str]:
    """A table of the keys of a mapping of the schema."""
    rows = []
    for key, value in properties.items():
        standard = "required" if key in required else _default(value) if "default" in value else ""
        where = f"[below](#{PARTS[key]})" if key in PARTS else _value(_one(value))
        rows.append((f"`{key}`", where, standard, _plain(value["description"])))
    return _table(HEAD, rows)


def _one(value: Schema) -> Schema:
    """What a value is if it is neither an axis nor null: the first choice of several."""
    while "anyOf" in value and any(_is_axis(choice) for choice in value["anyOf"]):
        value = value["anyOf"][0]
    return value


def _is_axis(choice: Schema) -> bool:
    parts = str([choice.get("$ref"), choice.get("allOf")])
    return "/axis" in parts or "/range" in parts or choice == {"type": "null"} or GRID in choice.get("properties", {})


def _value(value: Schema) -> str:
    """A value in words: `whole number, at least 1`."""
    if "$ref" in value:
        name = SHARED.get(value["$ref"].rpartition("/")[2])
        return f"[{name}](#{name})" if name else "mapping"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    for key in ("anyOf", "allOf"):
        if key in value:
            return " or ".join(dict.fromkeys(_value(each) for each in value[key]))
    word = WORDS.get(value.get("type", ""), "mapping")
    if word == "list" and isinstance(value.get("items"), dict) and value["items"]:
        word = f"list of {_value(value['items'])}"
    limits = [f"{words} {_number(value[key])}" for key, words in LIMITS.items() if key in value]
    return ", ".join([word, *limits])


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:,}"


def _default(value: Schema) -> str:
    default = value.get("default")
    if isinstance(default, dict):
        return "" if not any(isinstance(each, dict) for each in default.values()) else "see the code"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:,}`" if isinstance(default, int) else f"`{default}`" if default not in ("", [], ()) else "none"


def _paragraphs(thing: Any) -> list[str]:
    """Those of its own docstring, each as one line."""
    return [" ".join(each.split()) for each in inspect.cleandoc(vars(thing).get("__doc__") or "").split("\n\n")]


def _plain(text: str) -> str:
    """A docstring's text as Markdown: signs that Markdown and HTML would take for their own are escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_|<\[\]])", r"\\\1", part) for part in parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *((cell.replace("\n", " ") for cell in row) for row in rows)]
    return ["\n".join("| " + " | ".join(row) + " |" for row in cells)]


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(blocks)
