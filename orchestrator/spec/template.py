"""`nagbench init`: a commented first sweep, and a JSON schema with which editors complete and check sweeps.

The schema is made from the registry, so it has the methods and fields of this version. Rules that involve several lines
(names, trained conditions) are checked only by `nagbench check`.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nag.autoencoders.kl import Autoencoder
from nag.foreign_checkpoints import DIFFUSERS
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Interval
from nag.interpolants import PREDICTIONS
from nag.models.convention import TIMES
from nag.numerics import Precision
from nag.official_checkpoints import FAMILIES
from nag.registry import METHODS, find
from nag.training import PRESETS, Training
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.spec import key_descriptions
from orchestrator.spec.equal_price import KEYS, Budget
from orchestrator.spec.evaluators import EVALUATORS
from orchestrator.spec.examples import example_sweep
from orchestrator.spec.grid import AXES, GRID, POINTS, POINTS_AT_MOST, TUNE
from orchestrator.spec.key_descriptions import described
from orchestrator.spec.model import KEEP, Sample, Tune
from orchestrator.spec.networks import FAMILY, FOREIGN, LOADED, NAME, TRAINED, TUNED
from orchestrator.spec.protocols import CONTRACTS
from orchestrator.spec.reader import ARM_KEYS, COMPOSE, SWEEP_KEYS
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import KEYS as SCORE_KEYS

Schema = dict[str, Any]
SHARED: dict[str, type] = {"Interval": Interval, "Schedule": Schedule}
LIMITS = {  # pydantic's words, some of which stay in its schemas -> JSON schema's
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
SCHEMA_FILE = "nagbench.schema.json"
# A schema of an earlier `init` is recognized by it, so it must not change.
COMMENT = "Made by `nagbench init`. Remove it and run that again to renew it."

SWEEP = """\
# yaml-language-server: $schema={schema}
#
# nagbench check {path}            is this file valid?
# nagbench run   {path} --smoke    a quick test of every step, with tiny networks
# nagbench run   {path}            the comparison. To resume, extend or repair it, run the same command
#
# A value can be an axis, {{grid: [a, b]}}: every combination of axis values is a cell, with its own scores. With an
# axis over train.seed, intervals include the variation between trainings, not only between samples.
# A value can be tuned, {{tune: [a, b]}} or {{tune: {{low: 1.1, high: 3}}}}: it is chosen for each arm, on samples that
# the comparison does not use.

name: {name}

networks:
  sit:                      # any name
    data: {{name: digits}}
    model: {{name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}}
    train:
      steps: 500
      batch: 128
      lr: 2e-3
      noise_dropout: 0.15   # fraction of images trained without their noise level: nag needs it
      class_dropout: 0.1    # the same for the class: cfg needs it
      seed: {{grid: [0, 1, 2]}}

# Network evaluations (NFE) of a sample: without guidance 18 steps, with cfg or nag 9, with both 6. Or write steps.
sampler: {{name: euler, nfe: 18}}

# Sample i has the same noise and class in every cell, so comparisons are paired. A higher count keeps earlier samples.
# A race of candidates begins with a block of samples: 200 are enough for the 64 dimensions of these features.
sample: {{count: 1000, block: 200, seed: 0}}

# fid uses the first extractor; with the second it is called fid_pixels.
score: {{features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}}

# Tuned values: by which metric, and on how many samples. Each arm tries as many candidates.
tune: {{metric: fid, seed: 1, count: 400, candidates: 6}}

# Arms whose fid differs by less than the margin are alike. An arm is better only if recall is not worse.
compare: {{margin: 1.3 %, agree: [recall]}}

# An arm is a method to compare: it sets guidance, and can override network, sampler and sample. The first arm is the
# baseline of the others, unless they have `against: NAME`.
arms:
  plain:   {{}}
  cfg:     {{cfg: {{scale: {{tune: {{low: 1.1, high: 3}}}}}}}}   # 1 is off
  nag:     {{nag: {{scale: {{tune: {{low: 0.5, high: 4}}}}}}}}   # 0 is off
  matched: {{cfg: {{scale: {{match: nag}}}}, against: nag}}  # plain cfg that moves the samples as far as nag does
# heun:    {{nag: {{scale: 1.0}}, sampler: {{name: heun, nfe: 18}}}}
"""


def starter(path: str | Path, like: str | None = None, made: Callable[[Path, str], str] | None = None) -> list[Path]:
    """Write a sweep, named after its file, and the schema next to it. Returns the paths written. Only a schema of an
    earlier `init` is replaced. like: the example to copy. made: the text of the sweep, from its path and the schema's.

    Raises BadInput if a file exists already, its name is not valid for a sweep, or the example is unknown.
    """
    target = Path(path)
    if target.suffix not in (".yaml", ".yml"):
        example = target / "first.yaml" if target.name in ("", "..") or target.is_dir() else f"{target}.yaml"
        raise BadInput(f"{target}: a sweep is a .yaml file, such as {example}.")
    if not NAME.fullmatch(target.stem):
        raise BadInput(
            f"{target}: the file's name becomes the sweep's: a letter, then up to 63 letters, digits, '_' or '-'."
        )
    if os.path.lexists(target):
        raise BadInput(f"{target} exists already. Give another name.")
    if made is not None:
        sweep = made(target, SCHEMA_FILE)
    elif like is not None:
        sweep = _copy(like, target)
    else:
        sweep = SWEEP.format(schema=SCHEMA_FILE, path=target.as_posix(), name=target.stem)
    schema_file = target.with_name(SCHEMA_FILE)
    text = json.dumps(schema(), separators=(",", ":"), ensure_ascii=False) + "\n"
    written = [target]
    try:
        existing = schema_file.read_text() if schema_file.exists() else None
        if existing is not None and COMMENT not in existing:
            raise BadInput(f"{schema_file} exists already and is not from nagbench. Move it, or use another folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if existing != text:
            schema_file.write_text(text)
            written.append(schema_file)
        with open(target, "x") as file:
            file.write(sweep)
    except FileExistsError as error:
        raise BadInput(f"{error.filename} exists already. Give another name.") from error
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or target} cannot be written: {error.strerror}.") from error
    return written


def _copy(like: str, target: Path) -> str:
    """The text of an example, renamed to the new file, with the schema for editors."""
    example = example_sweep(like)
    text = re.sub(r"(?m)^name:.*$", f"name: {target.stem}", example.read_text(), count=1)
    text = re.sub(rf"\bsweeps/(\w+/)?{re.escape(example.name)}", lambda _: target.as_posix(), text)
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}"


def schema() -> Schema:
    """The JSON schema of a sweep file."""
    sections = {
        "name": _named(),
        "networks": _map(_network()),
        "network": {"type": "string"},
        "sampler": _method("samplers", axes=True, partly=True),
        "sample": _sample(),
        "score": _score(),
        "measure": {"anyOf": [_method("measures"), _list(_method("measures"))]},
        "precision": _fields(Precision, axes=False),
        "keep": {"enum": list(KEEP), "default": KEEP[0]},
        "published": {"type": "string"},
        "tune": {**_fields(Tune, axes=False), "required": []},
        "compare": _compare(),
        "arms": _map(_arm()),
    }
    parts = {key: sections.get(key, {}) for key in SWEEP_KEYS}
    sweep_file = _object(described(parts, key_descriptions.SWEEP), ("name", "networks", "arms"))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "nagbench sweep",
        "$comment": COMMENT,
        "definitions": {"axis": _axis(), "range": _range(), "network": _network_parts(), **_shared()},
        **sweep_file,
    }


def _sample(removable: bool = False) -> Schema:
    """Samples are not tuned."""
    plain = _fields(Sample, axes=False)
    fields = {key: _axes(value, tuned=False) for key, value in plain["properties"].items()}
    fields = {key: _or_null(value) if removable else value for key, value in fields.items()}
    return _axes({**plain, "properties": fields}, plain, tuned=False)


def _compare() -> Schema:
    margin = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^[0-9.]+ *%$"}]}
    return _object(described({"margin": margin, "agree": _list({"type": "string"})}, key_descriptions.COMPARE))


def _score() -> Schema:
    parts = {key: _list(_method(key)) for key in ("features", "metrics")}
    parts["protocol"] = {"enum": [*EVALUATORS]}
    parts["reference"] = {"anyOf": [{"type": "string"}, _fields(Published, axes=False), _method("datasets")]}
    parts["reference_rows"] = {"type": "integer", "minimum": 2}
    parts["decode"] = _fields(Autoencoder, axes=False)
    parts = described({key: parts[key] for key in SCORE_KEYS}, key_descriptions.SCORE)
    return {**_object(parts), "anyOf": [{"required": ["protocol"]}, {"required": ["features", "metrics"]}]}


def _network_parts() -> Schema:
    """The keys of a network, each once: several forms of a network share them."""
    parts: dict[str, Schema] = {key: _method(family, axes=True) for key, family in FAMILY.items()}
    parts["predicts"] = _axes({"enum": list(PREDICTIONS)})
    parts["train"] = _axes(_training(_fields(Training)), _training(_fields(Training, axes=False)))
    parts["autoencoder"] = _axes(_fields(Autoencoder), _fields(Autoencoder, axes=False))
    parts["init"] = {"type": "string"}
    parts["checkpoint"] = _axes({"type": "string"})
    parts["family"] = _axes({"enum": [*FAMILIES, DIFFUSERS]})
    parts["time"] = _axes({"enum": list(TIMES)})
    parts["precondition"] = _method("preconditions", axes=True)
    parts["num_classes"] = _axes({"type": "integer", "minimum": 1})
    parts["heads"] = _axes({"type": "integer", "minimum": 1})
    parts["shape"] = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3}
    keys = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    parts["key"] = _axes(keys)
    return described(parts, key_descriptions.NETWORK)


def _network() -> Schema:
    shapes = {TRAINED: ("data", "model", "train"), TUNED: ("init", "train"), LOADED: ("checkpoint",)}
    shapes[FOREIGN] = ("checkpoint", "model", "data")
    refs = {key: {"$ref": f"#/definitions/network/{key}"} for keys in shapes for key in keys}
    return {"anyOf": [_object({key: refs[key] for key in keys}, needed) for keys, needed in shapes.items()]}


def _training(fields: Schema) -> Schema:
    """The fields of a training with `preset`, which can provide the required ones."""
    known = {"preset": {"enum": list(PRESETS), "description": "A published recipe; fields next to it take precedence."}}
    enough = [{"required": fields["required"]}, {"required": ["preset"]}]
    return {**fields, "properties": known | fields["properties"], "required": [], "anyOf": enough}


def _arm() -> Schema:
    parts: dict[str, Schema] = {
        "network": {"type": "string"},
        "sampler": _method("samplers", axes=True, partly=True, removable=True),
        "sample": _sample(removable=True),
        "against": {"type": "string"},
        "compose": {"enum": list(COMPOSE)},
    }
    known = described({key: _or_null(parts.get(key, {})) for key in ARM_KEYS}, key_descriptions.ARM)
    own = _axes(_used())
    for name in METHODS["guidance"]:
        known[name] = _or_null(_guidance(name))
    return {**_object(known), "additionalProperties": own}


def _used() -> Schema:
    """A user's own method; only its file knows its fields."""
    file = {"type": "string", "pattern": r"\.py:\w+$", "description": "A Python file, and a class in it."}
    return {"type": "object", "properties": {"use": _axes(file)}, "required": ["use"]}


def _method(family: str, axes: bool = False, partly: bool = False, removable: bool = False) -> Schema:
    """A method by name, or by name and fields. partly: fields can be missing, if another place can set them."""
    choices: list[Schema] = []
    every: dict[str, Schema] = {}
    for name in METHODS[family]:
        fields = _fields(find(family, name), axes, removable)
        if family == "samplers":
            fields = _with_nfe(fields, axes, removable)
        every |= fields["properties"]
        required = ["name", *([] if partly else fields["required"])]
        properties = {"name": {"const": name}, **fields["properties"]}
        choices.append({**fields, "properties": properties, "required": required})
    plain = [n for n, choice in zip(METHODS[family], choices, strict=True) if partly or choice["required"] == ["name"]]
    if plain:
        choices.append({"enum": plain})
    if partly:
        choices.append(_object(every))
    if family in CONTRACTS:
        choices.append(_used())
    by_name = {"anyOf": choices}
    return _axes(by_name, _method(family, partly=partly)) if axes else by_name


def _with_nfe(fields: Schema, axes: bool, removable: bool) -> Schema:
    """The fields of a sampler, with `nfe` in place of `steps`. An arm may write both, where one is null."""
    if "steps" not in fields["properties"]:
        return fields
    both = {} if removable else {"not": {"required": list(KEYS)}}
    nfe = _fields(Budget, axes, removable)["properties"]
    return {**fields, "properties": fields["properties"] | nfe, **both}


def _fields(cls: type, axes: bool = True, removable: bool = False) -> Schema:
    """A mapping with a method's fields, their types, ranges and defaults."""
    whole = _json_schema(cls)
    fields = _described(whole, whole.get("$defs", {}), axes)
    if removable:
        fields = {key: _or_null(value) for key, value in fields.items()}
    known = _object(fields, tuple(whole.get("required", ())))
    return {**known, "description": whole["description"]} if "description" in whole else known


def _described(whole: Schema, definitions: Schema, axes: bool) -> dict[str, Schema]:
    """The fields of pydantic's schema of a class; those that are mappings, such as an interval, written out."""
    fields = {}
    for key, value in whole["properties"].items():
        plain = {LIMITS.get(word, word): what for word, what in value.items() if word not in ("title", "$ref")}
        inner = plain
        if "$ref" in value:
            name = value["$ref"].rpartition("/")[2]
            definition = definitions[name]
            plain, inner = (
                {**plain, "allOf": [{"$ref": f"#/definitions/{_shared_name(name, each)}"}]}
                if name in SHARED
                else plain | _object(_described(definition, definitions, each), tuple(definition.get("required", ())))
                for each in (axes, False)
            )
        fields[key] = _axes(plain, inner) if axes else plain
    return fields


def _shared() -> Schema:
    """The mappings that many methods have."""
    return {_shared_name(name, axes): _fields(cls, axes) for name, cls in SHARED.items() for axes in (True, False)}


def _shared_name(name: str, axes: bool) -> str:
    return f"{name}_axes" if axes else name


@functools.cache
def _json_schema(cls: type) -> Schema:
    from pydantic import TypeAdapter

    json_schema = TypeAdapter(cls).json_schema()
    return {"properties": {}, **json_schema}


def _object(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _map(value: Schema) -> Schema:
    names = {"pattern": f"^{NAME.pattern}$"}
    return {"type": "object", "propertyNames": names, "minProperties": 1, "additionalProperties": value}


def _named() -> Schema:
    return {"type": "string", "pattern": f"^{NAME.pattern}$"}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _or_null(value: Schema) -> Schema:
    return {"anyOf": [value, {"type": "null"}]}


def _axes(value: Schema, item: Schema | None = None, tuned: bool = True) -> Schema:
    """The value, or an axis of values, which cannot contain another axis; numbers can have a range."""
    item = {key: part for key, part in (item or value).items() if key != "description"}  # `value` has it
    if not tuned:
        return {"anyOf": [value, _object({GRID: _list(item)}, (GRID,))]}
    axis = {"$ref": "#/definitions/axis"}
    choices = [value, {"allOf": [axis, {"additionalProperties": _list(item)}]}]
    if {value.get("type"), *(each.get("type") for each in value.get("anyOf", ()))} & {"number", "integer"}:
        choices.append({"$ref": "#/definitions/range"})
    return {"anyOf": choices}


def _axis() -> Schema:
    """`{grid: ...}` or `{tune: ...}`; which values there can be is said where it is used."""
    keys = {"properties": {key: {} for key in AXES}, "propertyNames": {"enum": list(AXES)}}
    return {"type": "object", **keys, "minProperties": 1, "maxProperties": 1}


def _range() -> Schema:
    """`{tune: {low: 1.1, high: 4}}`"""
    number = {"type": "number"}
    points = {"type": "integer", "minimum": 3, "maximum": POINTS_AT_MOST, "default": POINTS}
    limits = _object({"low": number, "high": number, "points": points, "log": {"type": "boolean"}}, ("low", "high"))
    return _object({TUNE: limits}, (TUNE,))


def _guidance(name: str) -> Schema:
    """A guidance of an arm; the scale of plain CFG can match another arm."""
    fields = _fields(find("guidance", name))
    if name == "cfg":
        scale = fields["properties"]["scale"]
        arm = {"type": "string", "description": "An arm, whose effective scale this one takes."}
        fields["properties"]["scale"] = {"anyOf": [*scale["anyOf"], _object({"match": arm}, ("match",))]}
    return _axes(fields, _fields(find("guidance", name), axes=False))
