"""The site file (`--site PATH or NAME`): where a sweep runs, and with which resources. Nothing in it changes a result.

It is checked as strictly as a sweep. To add a kind of site, write a dataclass and add a line to KINDS. Text of the file
reaches a shell only as the user's own script (`setup`), as quoted words (`container`, `python`, `env_file`), or if it
has no characters that a shell would act on (partition, account and the like).
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
from orchestrator.backends.ray.settings import RaySettings
from orchestrator.backends.site_values import Count, Processes
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.display import SECRET
from orchestrator.errors import BadInput, unknown
from orchestrator.spec import examples
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.yaml_nodes import parse, read_text

if TYPE_CHECKING:
    from orchestrator.spec.yaml_nodes import Node

SITE = ("site", "It needs at least kind: slurm.")
DEFAULT = "site"  # ~/.config/nagbench/site.yaml
SUFFIXES = (".yaml", ".yml")

# A secret: NAME=value with a name like API_KEY, or user:password@ in an address. A value that a shell reads elsewhere
# ($NAME, $(cat FILE), `cat FILE`) is not one, nor is the name of a file.
NAMED = re.compile(rf"(?i)(?<![\w.-])({SECRET}|(?:\w*_)?key)=['\"]?(?![\s'\"$`]|$)")
HARMLESS = re.compile(r"(?i)tokenizer|_(file|path|dir|cmd|command)$")
PASSWORD = re.compile(r"://[^\s/@:'\"]*:(?![$`@])[^\s'\"]+@")


@method
class LocalSettings(Processes):
    """This machine."""

    workers: Count | None = None  # None: per_gpu a GPU, or one a core
    per_gpu: Count = 1  # workers that share each GPU
    processes: Count = 1  # that train one network together, each on a GPU of its own if there are any


KINDS: dict[str, type] = {"slurm": SlurmSettings, "ray": RaySettings, "local": LocalSettings}


@dataclass(frozen=True)
class Site:
    name: str
    path: str
    kind: str
    settings: Any  # an instance of KINDS[kind]
    text: str = ""  # of the file


def read_site(site: str | None = None, text: str = "") -> Site:
    """Read a site file, by path or name. text: what was in it, to be used instead of the file. Raises BadInput if there
    is none, SpecError for an error in it.
    """
    path = find_site(site)
    text = text or read_text(path, SITE)
    root = parse(text, str(path), SITE)
    fields = root.mapping("{kind: slurm, partition: ...}")
    _plain_text(root)
    if root.get("kind") is None:
        raise root.error(f"'kind' is missing. Known: {', '.join(sorted(KINDS))}.")
    kind = fields["kind"].text()
    if kind not in KINDS:
        raise fields["kind"].error(unknown("kind", kind, KINDS))
    given = _without_nulls(dataclasses.replace(root, value={k: child for k, child in fields.items() if k != "kind"}))
    settings = MethodBuilder().fields(KINDS[kind], given)
    _no_secrets(root)
    for secret in ("env_file", "token_file"):
        if given.get(secret):
            _private(given.value[secret])
    return Site(path.stem, str(path), kind, settings, text)


def folders() -> list[Path]:
    """The folders of named sites: the user's own, then the project's examples."""
    config = xdg("CONFIG", ".config") / "nagbench"
    return [config, examples.folder("sites")]


def find_site(site: str | None) -> Path:
    """The file that `--site` names. A path has a slash or ends in .yaml; anything else is a name."""
    if site is not None and (os.sep in site or site.endswith(SUFFIXES)):
        return Path(site).expanduser()
    sites = {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.yaml"))}
    name = DEFAULT if site is None else site
    if name in sites:
        return sites[name]
    known = ", ".join(sorted(sites)) or "none"
    if site is None:
        raise BadInput(
            f"{folders()[0] / (DEFAULT + '.yaml')}: there is no such file. Copy it from an example in "
            f"{folders()[1]}, or use --site PATH or NAME. Known: {known}."
        )
    close = difflib.get_close_matches(name, sites, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BadInput(
        f"unknown site {name!r}.{hint} Known: {known} (in {', '.join(map(str, folders()))}); a path ends in .yaml."
    )


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    children = (
        node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    )
    for child in children:
        yield from _nodes(child)


def _plain_text(root: Node) -> None:
    """Raise for a line break, which would end a line of a batch script, or an invisible character."""
    for node in _nodes(root):
        if isinstance(node.value, str) and not node.value.isprintable():
            raise node.error("it has a line break or an invisible character; write one line, or a list of lines.")


def _without_nulls(node: Node) -> Node:
    """Drop keys whose value is null, at every level."""
    if not isinstance(node.value, dict):
        return node
    kept = {key: _without_nulls(child) for key, child in node.value.items() if child.value is not None}
    return dataclasses.replace(node, value=kept)


def _no_secrets(root: Node) -> None:
    """Raise for a secret, since the text goes into batch files and onto command lines."""
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
    """Raise for a file of secrets that is not the user's own, or that others can read."""
    path = Path(node.value).expanduser()
    try:
        status = path.stat()
    except OSError as error:
        raise node.error(f"{path}: {(error.strerror or 'cannot be read').lower()}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise node.error(f"{path} is not a regular file.")
    if status.st_uid != os.geteuid():
        raise node.error(f"{path} is not yours.")
    if status.st_mode & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise node.error(f"{path} can be read by others (mode {mode}); run: chmod 600 {shlex.quote(str(path))}")
