"""A user's own method: `use: ./mine.py:MyGuidance` in place of `name`, with a path relative to the sweep file.

The file is read once, with all local files that it imports. This text is hashed, checked, run and copied into the
store, so an edit does not change queued work. Other imports, and files that it reads while it runs, are not part of its
digest.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import CodeType
from typing import Any, ClassVar, Self

from nag.models.convention import DECLARED
from nag.registry import SOURCE, method
from orchestrator.errors import unknown
from orchestrator.identity import checksum, digest

PACKAGE = "nagbench_use_"  # + start of the digest: the package name of a user's files
RESERVED = {*sys.stdlib_module_names, "nag", "orchestrator"}  # never local files
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what the parser raises for invalid Python
EXAMPLE = "./mine.py:MyClass"
CONSTANTS = {"generates", "estimates", "trained", *DECLARED}  # members that are known without importing the class


@dataclass(frozen=True)
class Code:
    """A file and the local files that it imports. `folder`: where they were read, for messages."""

    main: str
    files: Mapping[str, bytes]  # by path relative to the main file, with forward slashes
    folder: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return {"main": self.main, "files": {path: checksum(data) for path, data in sorted(self.files.items())}}

    @cached_property
    def digest(self) -> str:
        return digest(self.manifest)

    def shown(self, path: str) -> str:
        return str(Path(self.folder) / path)

    def tree(self, path: str) -> ast.Module:
        """The syntax tree of a file. Raises ValueError, with file and line, for invalid Python."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python itself repeats them when the file is imported
            try:
                return ast.parse(self.files[path], self.shown(path))
            except UNREADABLE as error:
                line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
                words = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
                raise ValueError(f"{self.shown(path)}{line}: this is not Python: {words}.") from None

    def class_statement(self, name: str) -> ast.ClassDef:
        """A class of the main file. Raises ValueError, with the known names, if there is no such class."""
        classes = {node.name: node for node in self.tree(self.main).body if isinstance(node, ast.ClassDef)}
        if name not in classes:
            raise ValueError(f"{self.shown(self.main)}: {unknown('class', name, classes)}")
        return classes[name]


def located(text: str, sweep_file: str) -> tuple[Path, str]:
    """File and class of a `use`. Raises ValueError for an invalid one."""
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"expected a file and a class in it, such as {EXAMPLE}, got {text!r}.")
    return Path(sweep_file).parent / file, name


def read(path: Path) -> Code:
    """The file with its local imports. Raises ValueError for a missing file or invalid Python."""
    if not path.is_file():
        if path.is_dir():
            raise ValueError(f"{path}: it is a directory.")
        close = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], n=1)
        raise ValueError(f"{path}: there is no such file.{f' Did you mean {close[0]!r}?' if close else ''}")
    files: dict[str, bytes] = {}
    pending = [path.name]
    while pending:
        name = pending.pop()
        if name in files:
            continue
        try:
            files[name] = (path.parent / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path.parent / name}: cannot be read: {error.strerror}.") from None
        for dotted in _imports(Code(path.name, files, str(path.parent)).tree(name), name):
            pending += _local_files(path.parent, dotted)
    return Code(path.name, files, str(path.parent))


def _imports(tree: ast.Module, path: str) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it, relative to the folder of the main file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] not in RESERVED)
        elif isinstance(node, ast.ImportFrom):
            around = PurePosixPath(path).parts[: -node.level] if node.level else ()
            base = [*around, *(node.module.split(".") if node.module else ())]
            if base[:1] and not node.level and base[0] in RESERVED:
                continue
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names if alias.name != "*")


def _local_files(folder: Path, dotted: str) -> list[str]:
    """The local files that an import of `dotted` would run."""
    files = []
    parts = dotted.split(".") if dotted else []
    for end in range(1, len(parts) + 1):
        stem = "/".join(parts[:end])
        candidates = (f"{stem}/__init__.py", f"{stem}.py")
        files += [name for name in candidates if (folder / name).is_file()][:1]
    return files


class _Package(MetaPathFinder, InspectLoader):
    """Imports a Code as a package with a unique name, so that two users' `models.py` never collide."""

    def __init__(self, code: Code) -> None:
        self.code, self.name = code, PACKAGE + code.digest[:16]
        self.modules = {self._module(path): path for path in code.files}
        self.local = {module.partition(".")[0] for module in self.modules} - RESERVED

    def _module(self, path: str) -> str:
        stem = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return stem if path != self.code.main or stem.isidentifier() else "main"

    @property
    def main(self) -> str:
        return f"{self.name}.{self._module(self.code.main)}"

    def _folder(self, inside: str) -> bool:
        """Whether a name is the package itself or a folder in it."""
        return not inside or any(module.startswith(f"{inside}.") for module in self.modules)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        package, _, inside = fullname.partition(".")
        if package != self.name or not (inside in self.modules or self._folder(inside)):
            return None
        # The same path in every process, so that code that looks for files next to itself fails here, not on a node.
        spec = ModuleSpec(fullname, self, origin=f"code/{self.code.digest}/{self.modules.get(inside, '')}")
        spec.submodule_search_locations = [] if self.is_package(fullname) else None
        spec.has_location = inside in self.modules
        return spec

    def is_package(self, fullname: str) -> bool:
        inside = fullname.partition(".")[2]
        return self._folder(inside) or self.modules.get(inside, "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        path = self.modules.get(fullname.partition(".")[2])
        return importlib.util.decode_source(self.code.files[path]) if path else ""

    def get_code(self, fullname: str) -> CodeType:
        path = self.modules.get(fullname.partition(".")[2])
        tree = _Imports(self.name, self.local).visit(self.code.tree(path)) if path else ast.Module([], [])
        return compile(ast.fix_missing_locations(tree), self.code.shown(path or ""), "exec", dont_inherit=True)


class _Imports(ast.NodeTransformer):
    """Rewrites imports of local files to imports from the package, also those inside functions."""

    def __init__(self, package: str, local: set[str]) -> None:
        self.package, self.local = package, local

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        statements: list[ast.stmt] = []
        for alias in node.names:
            first = alias.name.partition(".")[0]
            if first in self.local:
                inside = f"{self.package}.{alias.name}"
                statements.append(ast.Import([ast.alias(inside, alias.asname or first)]))
                if alias.asname is None and "." in alias.name:  # `import a.b` binds a
                    statements.append(ast.Import([ast.alias(f"{self.package}.{first}", first)]))
            else:
                statements.append(ast.Import([alias]))
        return [ast.copy_location(statement, node) for statement in statements]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.partition(".")[0] in self.local:
            return ast.copy_location(ast.ImportFrom(f"{self.package}.{node.module}", node.names, 0), node)
        return node


def load(code: Code, name: str) -> type:
    """Import the class. Raises ValueError, with the line of the user's file, if that fails."""
    package = _Package(code)
    if package.name not in sys.modules:
        sys.meta_path.append(package)
    try:
        cls = getattr(importlib.import_module(package.main), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(failed(error, code)) from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        fix = "put @method above it (from nag.registry import method)"
        raise ValueError(f"{code.shown(code.main)}: {name!r} is not a method: {fix}.")
    if "__pydantic_fields__" not in vars(cls):
        if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ValueError(f"{code.shown(code.main)}: {name!r} must be frozen: use @method of nag.registry.")
        cls = method(cls)
    setattr(cls, SOURCE, code.digest)
    return cls


def revived(cls: type, fields: Mapping[str, Any]) -> Any:
    """An instance from its fields in JSON, where tuples are lists and nested objects are mappings."""
    known: dict[str, Any] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return cls(**{key: _typed(known[key].annotation, value) for key, value in fields.items()})


def _typed(annotation: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_typed(None, item) for item in value)
    if isinstance(value, Mapping) and hasattr(annotation, "__pydantic_fields__"):
        return revived(annotation, value)
    return value


def user_line(error: BaseException) -> str | None:
    """The last file and line of a user's own code in a traceback, or None."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__", "").startswith(PACKAGE):
            return f"{frame.f_code.co_filename}:{line}"
    return None


def failed(error: BaseException, code: Code) -> str:
    """An error of a user's code as one line."""
    words = " ".join(str(error).split()) or "no message"
    if PACKAGE in words:  # as in "cannot import name 'x' from 'nagbench_use_....y'"
        words = words.replace(f"{PACKAGE}{code.digest[:16]}.", "")
    return f"{user_line(error) or code.shown(code.main)}: {type(error).__name__}: {words.rstrip('.')}."


@dataclass(frozen=True)
class StandIn:
    """Placeholder for a user's object whose file is only parsed: it passes every check."""

    fields: Any

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {}
    FOLDERS: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = True
    estimates: ClassVar[str] = "level"
    trained: ClassVar[bool] = False
    off: ClassVar[bool] = False
    nests: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    names: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ("features", "logits", "spatial")
    least: ClassVar[int] = 1
    stores: ClassVar[str] = "pixels"
    shape: ClassVar[None] = None
    unseen: ClassVar[bool] = False  # whether some of CONSTANTS may be inherited or computed, so not known here

    def smoke(self) -> Self:
        return self

    def fits(self, shape: Any) -> None:
        pass

    def refuses(self, interpolant: Any, predicts: str) -> None:
        return None


def stand_in(code: Code, name: str) -> type[StandIn]:
    """A StandIn with the class's name, and with those of CONSTANTS that the class sets to literals."""
    statement = code.class_statement(name)
    members: dict[str, Any] = {SOURCE: code.digest, "unseen": bool(statement.bases)}
    for node in statement.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            try:
                members |= {key: ast.literal_eval(node.value) for key in names & CONSTANTS}
            except ValueError:
                members["unseen"] = True
    return type(name, (StandIn,), members)
