"""`nagbench init`: a first sweep that explains itself, and the JSON schema by which an editor completes and checks it.

The schema is made from the table of methods and their fields, so it knows what this version knows. It sees one file's
shape; what depends on other lines (names, trained conditions) only `nagbench check` sees.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from nag.autoencoders.kl import Autoencoder
from nag.interpolants import PREDICTIONS
from nag.numerics import Precision
from nag.official_checkpoints import FAMILIES
from nag.registry import METHODS, find
from nag.training import PRESETS, Training
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.spec.examples import example_sweep
from orchestrator.spec.grid import GRID
from orchestrator.spec.model import KEEP, Sample
from orchestrator.spec.networks import FAMILY, LOADED, NAME, TRAINED, TUNED
from orchestrator.spec.protocols import CONTRACTS
from orchestrator.spec.reader import ARM_KEYS, SWEEP_KEYS
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import KEYS as SCORE_KEYS

Schema = dict[str, Any]
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}  # pydantic leaves some
SCHEMA_FILE = "nagbench.schema.json"
COMMENT = "Made by `nagbench init`. Remove it and run that again to renew it."

SWEEP = """\
# yaml-language-server: $schema={schema}
#
# nagbench check {path}            says whether this file is right, at once
# nagbench run   {path} --smoke    every step with tiny networks: does it all work?
# nagbench run   {path}            the answer. To resume, extend or repair: the same command
#
# A value may be an axis, {{grid: [a, b]}}; nothing else multiplies. Every combination is a cell, which gets scores of
# its own. An axis over train.seed makes the intervals those of trainings, not only of samples.

name: {name}

networks:
  sit:                      # a name of yours
    data: {{name: digits}}
    model: {{name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}}
    train:
      steps: 500
      batch: 128
      lr: 2e-3
      noise_dropout: 0.15   # the share of images for which the noise level is hidden: what nag needs
      class_dropout: 0.1    # the same for the class: what cfg needs
      seed: {{grid: [0, 1, 2]}}

sampler: {{name: euler, steps: 10}}

# Sample i has the same noise and class in every cell, so cells are compared in pairs. More samples keep the first ones.
sample: {{count: 1000, block: 100, seed: 0}}

# fid is measured on the first extractor; on the second it is called fid_pixels.
score: {{features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}}

# An arm is a line of the comparison. It says what it changes: a guidance, the sampler, the sample. The first arm is the
# baseline of the others, unless they say `against: NAME`.
arms:
  plain:   {{}}
  cfg:     {{cfg: {{scale: {{grid: [1.25, 1.5]}}}}}}         # 1 is off
  nag:     {{nag: {{scale: {{grid: [1.0, 2.0]}}}}}}          # 0 is off
  cfg_nag: {{cfg: {{scale: 1.25}}, nag: {{scale: 1.0}}, against: cfg}}
# heun:    {{nag: {{scale: 1.0}}, sampler: {{name: heun, steps: 5}}}}
"""


def starter(path: str | Path, like: str | None = None) -> list[Path]:
    """Write a sweep, named after its file, and the schema beside it; the files that were written. Replaces nothing, but
    for a schema that an earlier `init` wrote. like: an example of the project, copied in place of the usual one.

    Raises BadInput where a file is there already, its name is none for a sweep, or there is no such example.
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
        raise BadInput(f"{target} is there already, and stays. Give another name.")
    usual = SWEEP.format(schema=SCHEMA_FILE, path=target.as_posix(), name=target.stem)
    sweep = usual if like is None else _copy(like, target)
    beside = target.with_name(SCHEMA_FILE)
    text = json.dumps(schema(), separators=(",", ":"), ensure_ascii=False) + "\n"
    written = [target]
    try:
        found = beside.read_text() if beside.exists() else None
        if found is not None and COMMENT not in found:
            raise BadInput(f"{beside} is there already and is not from nagbench. Move it, or use another folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if found != text:
            beside.write_text(text)
            written.append(beside)
        with open(target, "x") as file:
            file.write(sweep)
    except FileExistsError as error:
        raise BadInput(f"{error.filename} is there already, and stays. Give another name.") from error
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename or target} cannot be written: {error.strerror}.") from error
    return written


def _copy(like: str, target: Path) -> str:
    """An example under the name of the new file, with the schema for editors."""
    example = example_sweep(like)
    text = re.sub(r"(?m)^name:.*$", f"name: {target.stem}", example.read_text(), count=1)
    text = re.sub(rf"\bsweeps/(\w+/)?{re.escape(example.name)}", lambda _: target.as_posix(), text)
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}"


def schema() -> Schema:
    """The JSON schema of a sweep file."""
    sections = {
        "name": {
            **_named(),
            "description": "The name of the sweep: of its results, its report, its MLflow experiment.",
        },
        "networks": _map(_network(), "Networks by name: data, model and training."),
        "network": {"type": "string", "description": "The network of all arms that name none."},
        "sampler": _method("samplers", axes=True, partly=True),
        "sample": _axes(_fields(Sample), _fields(Sample, axes=False)),
        "score": _score(),
        "measure": _method("measures"),
        "precision": _fields(Precision, axes=False),
        "keep": {"enum": list(KEEP), "description": "What stays of a cell that is scored; the default is samples."},
        "published": {"type": "string", "description": "A file of a paper's numbers, to stand beside ours."},
        "arms": _map(_arm(), "The lines of the comparison. The first one is the baseline of the others."),
    }
    found = _object({key: sections.get(key, {}) for key in SWEEP_KEYS}, ("name", "networks", "arms"))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "nagbench sweep",
        "$comment": COMMENT,
        **found,
    }


def _score() -> Schema:
    parts = {key: _list(_method(key)) for key in ("features", "metrics")}
    file = {"type": "string", "description": "Statistics of ADM or clean-fid, .npz: a path or a URL."}
    parts["reference"] = {"anyOf": [file, _fields(Published, axes=False), _method("datasets")]}
    parts["reference_rows"] = {"type": "integer", "minimum": 2}
    parts["decode"] = _fields(Autoencoder, axes=False)
    return _object({key: parts[key] for key in SCORE_KEYS}, ("features", "metrics"))


def _network() -> Schema:
    parts: dict[str, Schema] = {key: _method(family, axes=True) for key, family in FAMILY.items()}
    parts["predicts"] = _axes({"enum": list(PREDICTIONS)})
    parts["train"] = _axes(_training(_fields(Training)), _training(_fields(Training, axes=False)))
    parts["autoencoder"] = _axes(_fields(Autoencoder), _fields(Autoencoder, axes=False))
    parts["init"] = {"type": "string", "description": "The network that this one starts from."}
    parts["checkpoint"] = _axes({"type": "string", "description": "A file of weights, from the sweep's folder."})
    parts["family"] = _axes(
        {"enum": list(FAMILIES), "description": "Whose the weights are; read from them if left out."}
    )
    parts["heads"] = _axes({"type": "integer", "minimum": 1})
    shapes = {TRAINED: ("data", "model", "train"), TUNED: ("init", "data", "train"), LOADED: ("checkpoint",)}
    return {"anyOf": [_object({key: parts[key] for key in keys}, needed) for keys, needed in shapes.items()]}


def _training(fields: Schema) -> Schema:
    """With `preset`, which may give what is required."""
    known = {"preset": {"enum": list(PRESETS), "description": "A published recipe; what stands beside it counts."}}
    enough = [{"required": fields["required"]}, {"required": ["preset"]}]
    return {**fields, "properties": known | fields["properties"], "required": [], "anyOf": enough}


def _arm() -> Schema:
    parts: dict[str, Schema] = {
        "network": {"type": "string"},
        "sampler": _method("samplers", axes=True, partly=True, removable=True),
        "sample": _axes(_fields(Sample, removable=True), _fields(Sample, axes=False)),
        "against": {"type": "string", "description": "The arm that this one is compared with; the first by default."},
    }
    known = {key: parts.get(key, {}) for key in ARM_KEYS}
    own = _axes(_used())
    for name in METHODS["guidance"]:
        guidance = find("guidance", name)
        known[name] = _axes(_fields(guidance), _fields(guidance, axes=False))
    return {**_object({key: _or_null(value) for key, value in known.items()}), "additionalProperties": own}


def _used() -> Schema:
    """A method of the user's own, whose fields only its file knows."""
    file = {"type": "string", "pattern": r"\.py:\w+$", "description": "A file of yours, and a class in it."}
    return {"type": "object", "properties": {"use": _axes(file)}, "required": ["use"]}


def _method(family: str, axes: bool = False, partly: bool = False, removable: bool = False) -> Schema:
    """A method by name, or by name and fields. partly: another place of the file may give the rest."""
    choices: list[Schema] = []
    every: dict[str, Schema] = {}
    for name in METHODS[family]:
        fields = _fields(find(family, name), axes, removable)
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
    found = {"anyOf": choices}
    return _axes(found, _method(family, partly=partly)) if axes else found


def _fields(cls: type, axes: bool = True, removable: bool = False) -> Schema:
    """The mapping of a method's fields, with their types, ranges and defaults."""
    found = _json_schema(cls)
    fields = {}
    for key, value in found["properties"].items():
        fields[key] = {LIMITS.get(word, word): what for word, what in value.items() if word != "title"}
    if axes:
        fields = {key: _axes(value) for key, value in fields.items()}
    if removable:
        fields = {key: _or_null(value) for key, value in fields.items()}
    known = _object(fields, tuple(found.get("required", ())))
    return {**known, "description": found["description"]} if "description" in found else known


@functools.cache
def _json_schema(cls: type) -> Schema:
    from pydantic import TypeAdapter

    found = TypeAdapter(cls).json_schema()
    return {"properties": {}, **found}


def _object(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _map(value: Schema, description: str) -> Schema:
    names = {"pattern": f"^{NAME.pattern}$"}
    described = {"type": "object", "description": description, "propertyNames": names, "minProperties": 1}
    return {**described, "additionalProperties": value}


def _named() -> Schema:
    return {"type": "string", "pattern": f"^{NAME.pattern}$"}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _or_null(value: Schema) -> Schema:
    return {"anyOf": [value, {"type": "null"}]}


def _axes(value: Schema, item: Schema | None = None) -> Schema:
    """The value, or an axis over several; inside an axis no other one may stand."""
    return {"anyOf": [value, _object({GRID: _list(item or value)}, (GRID,))]}
