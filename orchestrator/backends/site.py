"""The site file: where a sweep runs and with what, checked as strictly as a sweep (`--site PATH or NAME`).

It says nothing that changes a result. To add a kind of site, write a dataclass and add a line to KINDS. Text of it
reaches a shell where it is the user's own script (`setup`), as quoted words (`container`, `python`, `env_file`), or
after a check that leaves nothing a shell would act on (partition, account and the like); nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.cache import xdg
from nag.registry import method
from orchestrator.backends.ray.settings import Ray
from orchestrator.backends.site_values import Count, Processes
from orchestrator.backends.slurm.settings import Slurm
from orchestrator.display import SECRET
from orchestrator.errors import BadInput, unknown
from orchestrator.spec import examples
from orchestrator.spec.construct import Builder
from orchestrator.spec.yaml_nodes import parse, read_text

if TYPE_CHECKING:
    from orchestrator.spec.yaml_nodes import Node

SITE = ("site", "It needs at least kind: slurm.")
DEFAULT = "site"  # ~/.config/nagbench/site.yaml
SUFFIXES = (".yaml", ".yml")

# A secret written out: NAME=value where the name says it is one, or user:password@ in an address. A value that a shell
# gets elsewhere ($NAME, $(cat FILE), `cat FILE`) is none, nor is the name of a file.
NAMED = re.compile(rf"(?i)(?<![\w.-])({SECRET}|(?:\w*_)?key)=['\"]?(?![\s'\"$`]|$)")
HARMLESS = re.compile(r"(?i)tokenizer|_(file|path|dir|cmd|command)$")
PASSWORD = re.compile(r"://[^\s/@:'\"]*:(?![$`@])[^\s'\"]+@")


@method
class Local(Processes):
    """This machine."""

    workers: Count | None = None
    processes: Count = 1  # that train one network together, each on a GPU of its own where there are any


KINDS: dict[str, type] = {"slurm": Slurm, "ray": Ray, "local": Local}


@dataclass(frozen=True)
class Site:
    name: str
    path: str
    kind: str
    settings: Any  # of the class that KINDS has for the kind


def read_site(site: str | None = None) -> Site:
    """The site file at a path, or of a name. Raises BadInput if there is none, SpecError for what is wrong in it."""
    path = find_site(site)
    root = parse(read_text(path, SITE), str(path), SITE)
    fields = root.mapping("{kind: slurm, partition: ...}")
    _plain_text(root)
    if root.get("kind") is None:
        raise root.error(f"'kind' is missing. Known: {', '.join(sorted(KINDS))}.")
    kind = fields["kind"].text()
    if kind not in KINDS:
        raise fields["kind"].error(unknown("kind", kind, KINDS))
    given = _without_nulls(dataclasses.replace(root, value={k: child for k, child in fields.items() if k != "kind"}))
    settings = Builder().fields(KINDS[kind], given)
    _no_secrets(root)
    for secret in ("env_file", "token_file"):
        if given.get(secret):
            _private(given.value[secret])
    return Site(path.stem, str(path), kind, settings)


def folders() -> list[Path]:
    """Where names of sites are looked up: the user's own, then the examples of the project."""
    config = xdg("CONFIG", ".config") / "nagbench"
    return [config, examples.folder("sites")]


def find_site(site: str | None) -> Path:
    """The file that `--site` names. A path has a slash or ends in .yaml; anything else is a name."""
    if site is not None and (os.sep in site or site.endswith(SUFFIXES)):
        return Path(site).expanduser()
    found = {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.yaml"))}
    name = DEFAULT if site is None else site
    if name in found:
        return found[name]
    if site is None:
        raise BadInput(
            f"{folders()[0] / (DEFAULT + '.yaml')}: there is no such file. Write it after an example in "
            f"{folders()[1]}, or say --site PATH or NAME. Known: {', '.join(sorted(found)) or 'none'}."
        )
    close = difflib.get_close_matches(name, found, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BadInput(
        f"unknown site {name!r}.{hint} Known: {', '.join(sorted(found)) or 'none'} "
        f"(in {', '.join(map(str, folders()))}); a path ends in .yaml."
    )


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    children = (
        node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    )
    for child in children:
        yield from _nodes(child)


def _plain_text(root: Node) -> None:
    """No text of the file holds a line break, which would end a line of a batch script, or what nobody can see."""
    for node in _nodes(root):
        if isinstance(node.value, str) and not node.value.isprintable():
            raise node.error(
                "a line break or a character that cannot be seen is in it; write one line, or a list of lines."
            )


def _without_nulls(node: Node) -> Node:
    """null means absent, everywhere."""
    if not isinstance(node.value, dict):
        return node
    kept = {key: _without_nulls(child) for key, child in node.value.items() if child.value is not None}
    return dataclasses.replace(node, value=kept)


def _no_secrets(root: Node) -> None:
    """No text of the file, which goes into batch files and onto command lines, is a secret."""
    for node in _nodes(root):
        if not isinstance(node.value, str):
            continue
        named = next((m[1] for m in NAMED.finditer(node.value) if not HARMLESS.search(m[1])), None)
        if named or PASSWORD.search(node.value):
            raise node.error(
                f"{named or 'the password of an address'} looks like a secret, and this text is written into batch "
                "files. Put it into a file that only you can read, and name that as env_file."
            )


def _private(node: Node) -> None:
    """The file of secrets is a file of the user's, for nobody else."""
    path = Path(node.value).expanduser()
    try:
        found = path.stat()
    except OSError as error:
        raise node.error(f"{path}: {(error.strerror or 'cannot be read').lower()}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise node.error(f"{path} is no file.")
    if found.st_uid != os.geteuid():
        raise node.error(f"{path} is not yours.")
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise node.error(f"{path} can be read by others (mode {mode}); run: chmod 600 {shlex.quote(str(path))}")
