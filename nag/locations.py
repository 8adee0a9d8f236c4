"""Paths and URLs of files. Every one that a sweep, a site, a stored plan or an option names is checked here before
fsspec sees it.

fsspec knows forty protocols more and joins them with `::`. Some of them run code from a file (`reference` renders
templates), others contact unexpected servers. Local paths never reach its URL parser.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nag.unreachable import Unreachable

PROTOCOLS = ("file", "s3", "gs", "az", "hf", "http", "https")
WEB = ("http", "https")  # single files only, which nag.web fetches
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, on all common file systems
SHOWN = 100  # characters of a place in a message
_for_tests: set[str] = set()


def allow_memory() -> None:
    """Let this process use `memory://`, which tests need."""
    _for_tests.add("memory")


def protocol(place: str) -> str:
    """The protocol of a URL; "file" for a path."""
    before, separator, _ = place.partition("://")
    return before if separator and "/" not in before else "file"


def is_url(place: str) -> bool:
    """Whether a place is not on this machine."""
    return protocol(place) != "file"


def is_web(place: str) -> bool:
    return protocol(place) in WEB


def path_of(place: str) -> str:
    """A path or a `file://` URL as a path."""
    return place.removeprefix("file://")


def refusal(place: str) -> str | None:
    """Why a path or URL is never read, or None. Nothing is opened."""
    shown = place if len(place) <= SHOWN else f"{place[:SHOWN]}..."
    if not path_of(place):
        return "the path is empty"
    kind, known = protocol(place), (*PROTOCOLS, *_for_tests)
    before, _, rest = place.partition(":/")
    if before in PROTOCOLS and not rest.startswith("/"):
        return f"{shown!r}: a slash is missing. Did you mean '{before}://{rest[:SHOWN]}'?"
    if kind not in known:
        close = difflib.get_close_matches(kind.lower(), PROTOCOLS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{shown!r}: unknown protocol {kind[:30]!r}.{hint} Give a path, or a URL of {', '.join(PROTOCOLS)}"
    chained = "::" in place and (place.startswith("file://") or is_url(place) or not os.path.lexists(place))
    if chained:
        return f"{shown!r}: places cannot be joined with '::'. Give the path or URL of the file itself"
    if "\0" in place or not _encodable(place):
        return f"{shown!r}: not a valid name of a file"
    if len(os.fsencode(place)) >= LONGEST_PATH:
        return f"{shown!r}: longer than {LONGEST_PATH:,} bytes"
    if not is_url(place) and any(len(os.fsencode(part)) > LONGEST_NAME for part in place.split("/")):
        return f"{shown!r}: a name in it is longer than the {LONGEST_NAME} bytes that file systems allow"
    if is_web(place):
        from nag.web import refusal as of_address

        return of_address(place)
    return None


def system(place: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a place, and the path in it. options: of a remote file system.

    Raises ValueError for a place that is never read and for http (files there are fetched), Unreachable where the
    package that a protocol needs is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    reason = refusal(place)
    if reason is None and is_web(place):
        reason = f"{place[:SHOWN]!r}: over http only single files can be read, not folders"
    if reason is not None:
        raise ValueError(reason)
    if not is_url(place):
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(path_of(place)))
    try:
        return url_to_fs(place, **options)
    except ImportError as error:
        raise Unreachable(f"{place} cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextlib.contextmanager
def reached(place: str) -> Iterator[None]:
    """Convert the errors of a remote file system's library to Unreachable, except for a missing file."""
    try:
        yield
    except (FileNotFoundError, Unreachable):
        raise
    except Exception as error:
        if not is_url(place):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreachable(f"{place} cannot be read: {reason}") from error


def exists(place: str) -> bool:
    """Raises ValueError for a place that is never read, Unreachable."""
    if is_web(place):
        from nag.web import stamp

        try:
            return bool(stamp(place))
        except FileNotFoundError:
            return False
    files, path = system(place)
    with reached(place):
        return bool(files.exists(path))


def irregular(path: str | Path) -> str | None:
    """What a path is that is neither a regular file nor a folder, such as a named pipe, which would be read for ever;
    None for those two, and where nothing is.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a socket")


def check_regular(path: str | Path) -> None:
    """Raise OSError if nothing is there, ValueError if it is not a regular file. Call it before opening the file."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {irregular(path) or 'a folder'}, not a file")


def _encodable(place: str) -> bool:
    try:
        os.fsencode(place)
    except UnicodeEncodeError:
        return False
    return True
