"""The one place that says where a user's cache is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

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
