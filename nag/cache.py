"""The user's cache: where it is, and how a file is kept in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nag.whole_file import whole_file

NOWHERE = "/nonexistent"  # the home of a user without one, by the convention of Unix: nothing can be read or made there


def home() -> Path:
    """The user's home, from HOME or the password database."""
    if os.path.isabs(told := os.environ.get("HOME", "")):
        return Path(told)
    with contextlib.suppress(KeyError, ImportError):
        import pwd

        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return Path(NOWHERE)


def xdg(name: str, default: str) -> Path:
    """The folder of XDG_<name>_HOME; a value that is empty or relative counts as not set, as its standard says."""
    told = os.environ.get(f"XDG_{name}_HOME", "")
    return Path(told) if os.path.isabs(told) else home() / default


def folder(kind: str) -> Path:
    """$XDG_CACHE_HOME/nagbench/KIND, by default in ~/.cache. It need not be there, and need not be writable."""
    return xdg("CACHE", ".cache") / "nagbench" / kind


def keep(kept: Path, text: str) -> None:
    """Write a file of the cache. Where that fails, as in a home that cannot be written, it is made again next time."""
    with contextlib.suppress(OSError), whole_file(kept) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
