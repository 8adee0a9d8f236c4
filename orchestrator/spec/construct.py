"""Build methods from nodes, and turn pydantic's errors into messages with the line in the file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nag import locations
from nag.autoencoders.kl import Autoencoder, files
from nag.registry import METHODS, completed, find
from orchestrator.errors import EnvironmentProblem, SpecError, unknown
from orchestrator.identity import canonical, changed_fields
from orchestrator.spec import user_code
from orchestrator.spec.grid import as_mapping, is_axis
from orchestrator.spec.protocols import CONTRACTS, missing_members, violation
from orchestrator.spec.user_code import Code
from orchestrator.spec.yaml_nodes import MAX_WHOLE, Node, is_number, show

_BOUNDS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_WRONG_TYPE = ("int_type", "float_type", "bool_type", "string_type", "int_from_float", "finite_number")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_BOOLEAN_WORDS = {"on", "off", "yes", "no", "y", "n", "true", "false"}


def local_path(node: Node, remote: bool = False) -> str:
    """The absolute path of a file or folder that the sweep names relative to itself. It need not exist. With `remote` a
    URL is allowed, and returned unchanged. Raises SpecError for a path that is never read, such as a named pipe.
    """
    text = node.text()
    if not remote and locations.is_url(text) and locations.refusal(text) is None:
        raise node.error(
            f"expected a path on this machine, got the URL {show(node)}. Download the file and give its path."
        )
    place = text
    if locations.path_of(text) and not locations.is_url(text) and "\0" not in text:
        place = os.path.join(os.path.dirname(node.file), os.path.expanduser(locations.path_of(text)))
        place = os.path.abspath(place)
    if (reason := locations.refusal(text if text.startswith("file://") else place)) is not None:
        raise node.error(f"{reason}.")
    if not locations.is_url(place) and (what := locations.irregular(place)):
        raise node.error(f"{place} is {what}; a file or folder is needed.")
    return place


class MethodBuilder:
    """Builds each distinct method once. `partly`: if required fields are missing, return None instead of raising.

    run_user_code: import users' own files; otherwise they are only parsed, and their classes get stand-ins. `code`: the
    files that were read, by digest.
    """

    def __init__(self, run_user_code: bool = True) -> None:
        self.run_user_code = run_user_code
        self.code: dict[str, Code] = {}
        self._built: dict[tuple[type, str], Any] = {}
        self._read: dict[Path, Code] = {}
        self._classes: dict[tuple[str, str, str], type] = {}

    def method(self, family: str, node: Node, partly: bool = False) -> Any:
        """The method at `node`: `{name: euler, steps: 10}`, or `euler` if no field is required."""
        if is_axis(node):
            raise _no_axis(node)
        fields = as_mapping(node).mapping(f"{{name: {next(iter(METHODS[family]))}}}")
        if "use" in fields:
            return self.used(family, node, partly)
        if "name" not in fields:
            raise node.error(f"'name' is missing. Known: {', '.join(sorted(METHODS[family]))}.")
        name = fields["name"].text()
        if name not in METHODS[family]:
            raise fields["name"].error(unknown("name", name, METHODS[family]))
        given = {key: child for key, child in fields.items() if key != "name"}
        method = self.fields(find(family, name), replace(node, value=given), partly)
        if family == "datasets":
            _check_data(method, node)
        return method

    def used(self, family: str, node: Node, partly: bool = False) -> Any:
        """A user's own method at `node`: `{use: ./mine.py:MyGuidance, scale: 2}`."""
        if is_axis(node):
            raise _no_axis(node)
        fields = node.mapping(f"{{use: {user_code.EXAMPLE}}}")
        if "use" not in fields:
            raise node.error(f"'use' is missing: a file and a class in it, such as {user_code.EXAMPLE}.")
        if "name" in fields:
            raise fields["name"].error(
                "'name' (a method of nagbench) and 'use' (your own) exclude each other; remove one."
            )
        if family not in CONTRACTS:
            raise fields["use"].error(f"your own code is not possible here, only for {', '.join(sorted(CONTRACTS))}.")
        cls = self._class(family, fields["use"])
        given = replace(node, value={key: child for key, child in fields.items() if key != "use"})
        if issubclass(cls, user_code.StandIn):
            return cls(_plain(given))
        try:
            method = self.fields(cls, given, partly)
            if method is None:
                return None
            reason = violation(family, method)
            canonical(changed_fields(method))
        except SpecError:
            raise
        except Exception as error:
            if user_code.user_line(error) is None:
                reason = f"its fields must be numbers, text or lists of them ({error})"
            else:
                raise fields["use"].error(user_code.failed(error, self._code(fields["use"])[0])) from error
        if reason is not None:
            raise fields["use"].error(f"{reason}.")
        return method

    def class_of(self, family: str, node: Node) -> type:
        """The class of the method at `node`, which must be one that `method` has accepted."""
        return self._class(family, node.value["use"]) if "use" in node.value else find(family, node.value["name"].value)

    def autoencoder(self, node: Node) -> Autoencoder:
        """The autoencoder in a folder, or under a name in the local Hugging Face cache. A missing one keeps its name or
        absolute path.
        """
        given = node.mapping("{path: FOLDER}")
        place = given.get("path")
        if place is None:
            raise node.error("'path' is missing; it is the folder of an AutoencoderKL, such as sd-vae-ft-ema.")
        folder = local_path(place)
        try:
            present = files(folder if os.path.isdir(folder) else place.text())["config.json"].rpartition("/")[0]
        except (OSError, ValueError) as error:
            if os.path.isdir(folder):
                raise place.error(f"{str(error).rstrip('.')}.") from None
            present = ""
        vae = self.fields(Autoencoder, replace(node, value={**given, "path": replace(place, value=present or folder)}))
        is_path = place.text().startswith((".", "/", "~")) or "/" not in place.text()
        return vae if present or is_path else replace(vae, path=place.text())

    def _code(self, node: Node) -> tuple[Code, str]:
        """File and class of a `use`. Raises SpecError for an invalid one."""
        if is_axis(node):
            raise _no_axis(node)
        try:
            path, name = user_code.located(node.text(), node.file)
            code = self._read[path] = self._read.get(path) or user_code.read(path)
        except ValueError as error:
            raise node.error(str(error)) from None
        return self.code.setdefault(code.digest, code), name

    def _class(self, family: str, node: Node) -> type:
        """The class of a `use`, or a stand-in for it. Raises SpecError if members of its family are missing."""
        code, name = self._code(node)
        key = (family, code.digest, name)
        if key not in self._classes:
            try:
                statement = code.class_statement(name)
                lacking = missing_members(family, statement)
                if lacking is not None:
                    raise ValueError(f"{code.shown(code.main)}:{statement.lineno}: {lacking}.")
                load = user_code.load if self.run_user_code else user_code.stand_in
                self._classes[key] = completed(family, load(code, name))
            except ValueError as error:
                raise node.error(str(error)) from error.__cause__
        return self._classes[key]

    def fields(self, cls: Any, node: Node, partly: bool = False) -> Any:
        """`cls` built from the fields of a mapping. Raises SpecError for the first wrong one in the file."""
        fields = node.mapping(f"{{{next(iter(_known(cls)), '')}: ...}}")
        node.only(_known(cls))
        values = {key: self._value(_known(cls)[key].annotation, child) for key, child in fields.items()}
        files, folders = getattr(cls, "FILES", {}), getattr(cls, "FOLDERS", ())  # an Interval has neither
        for key in {*files, *folders} & values.keys():
            if isinstance(values[key], str):
                values[key] = local_path(fields[key], remote=key in folders or cls.REMOTE)
        key = (cls, repr(values))
        if key not in self._built:
            try:
                self._built[key] = cls(**values)
            except ValidationError as error:
                mistakes = [each for each in error.errors() if not (partly and each["type"] == "missing")]
                if not mistakes:
                    return None
                raise min((_mistake(each, cls, node) for each in mistakes), key=lambda e: e.line or 0) from None
        return self._built[key]

    def _value(self, annotation: Any, node: Node) -> Any:
        """The value of a field. For a dataclass field, such as an interval, a mapping becomes an instance."""
        if dataclasses.is_dataclass(annotation) and isinstance(node.value, dict) and not is_axis(node):
            return self.fields(typing.cast(type, annotation), node)
        of = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is dict else ()
        if of and dataclasses.is_dataclass(of[0]) and isinstance(node.value, dict) and not is_axis(node):
            return {key: self.fields(typing.cast(type, of[0]), child) for key, child in node.value.items()}
        if annotation is int and isinstance(node.value, float) and node.value.is_integer():
            return int(node.value)  # 5e4 in a user's class; nagbench's classes use nag.registry.Int
        return _plain(node)


def _check_data(data: Any, node: Node) -> None:
    """Raise if a data set is invalid, from its headers and file names. A missing one passes: it can be planned."""
    try:
        _ = data.shape, data.stores
        with contextlib.suppress(FileNotFoundError):
            _ = data.num_classes
    except locations.Unreachable as error:
        raise EnvironmentProblem(f"{node.place}: {node.path}: {error}") from error
    except (OSError, ValueError) as error:
        gone = error.filename if isinstance(error, FileNotFoundError) else None
        reason = f"there is no file {gone!r}, which is needed for its shape" if gone else str(error)
        raise node.error(f"{reason.rstrip('.')}.") from error


def _no_axis(node: Node) -> SpecError:
    return node.error("an axis is not possible here, only in networks, sampler, sample and arms.")


def _known(cls: Any) -> dict[str, Any]:
    return cls.__pydantic_fields__


def _plain(node: Node) -> Any:
    """The plain value of a node; lists become tuples, because methods are frozen."""
    if is_axis(node):
        raise _no_axis(node)
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return tuple(_plain(child) for child in node.value)
    return node.value


def _mistake(details: Any, cls: type, node: Node) -> SpecError:
    kind, place = details["type"], details["loc"]
    name = str(place[0]) if place else ""
    child = node.value.get(name)
    if kind == "missing":
        return node.error(f"{name!r} is missing; it is {_expected(_known(cls)[name])}.")
    if child is None:  # a rule that involves several fields
        return node.error(f"{_own_words(details)}.")
    field = _known(cls)[name]
    if (
        kind == "literal_error"
        and isinstance(child.value, str)
        and typing.get_origin(field.annotation) is typing.Literal
    ):
        return child.error(unknown("value", child.value, map(str, _choices(field.annotation))))
    if kind in _WRONG_TYPE or kind in _OUT_OF_RANGE or kind == "literal_error":
        return child.error(f"expected {_expected(field)}, got {show(child)}.{_hint(child)}")
    return child.error(f"{_own_words(details)}, got {show(child)}.")


def _own_words(details: Any) -> str:
    """The message of a method's own check, or pydantic's."""
    error = details.get("ctx", {}).get("error")
    return str(error if error is not None else details["msg"]).rstrip(".")


def _choices(annotation: Any) -> list[Any]:
    """All values of the Literals in an annotation."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return list(arguments)
    return [choice for argument in arguments for choice in _choices(argument)]


def _expected(field: Any) -> str:
    """Type and range of a field in words: "a number of at least 0 and below 1"."""
    limits = {
        bound: limit
        for metadata in (*field.metadata, *_metadata(field.annotation))
        for bound in _BOUNDS
        if (limit := getattr(metadata, bound, None)) is not None and limit <= MAX_WHOLE
    }
    if limits.keys() == {"ge", "le"}:
        return f"{_kind(field.annotation)} from {limits['ge']} to {limits['le']}"
    bounds = " and ".join(f"{_BOUNDS[bound]} {limit}" for bound, limit in limits.items())
    return f"{_kind(field.annotation)} {bounds}".rstrip()


def _metadata(annotation: Any) -> list[Any]:
    """The limits inside an annotation, such as `Annotated[int, Field(ge=1)] | None`."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return [limit for each in arguments[1:] for limit in getattr(each, "metadata", [each])]
    return [limit for each in arguments for limit in _metadata(each)]


def _kind(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(each) for each in typing.get_args(annotation) if each is not types.NoneType)
    if origin is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    if origin is tuple or annotation is tuple:
        return "a list"
    return _TYPES.get(annotation, "a mapping")


def _hint(node: Node) -> str:
    """How to fix text that was probably meant as a number or boolean."""
    text = node.value
    if not isinstance(text, str):
        return ""
    if text.lower() in _BOOLEAN_WORDS:
        return " Only true and false are booleans."
    if is_number(text):
        return " Write the number without quotes."
    if is_number(text.replace("_", "")):
        return f" Write {text.replace('_', '')}."
    if is_number(text.replace(":", "")):
        return " With ':' it is text; write one number."
    return ""
