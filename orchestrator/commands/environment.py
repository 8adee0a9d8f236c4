"""Environment variables: repair invalid values at the start of a command, or raise where that is not safe.

Libraries that read the same variables, here and in child processes, then see valid values.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import MutableMapping

from nag.cache import home
from orchestrator.errors import EnvironmentProblem

LAST_SECOND = 253402300799  # of the year 9999, in Unix time
NARROWEST, WIDEST = 20, 10_000


def settle(environ: MutableMapping[str, str] = os.environ) -> None:
    """Repair the environment. Raises EnvironmentProblem if the current folder is unusable."""
    try:
        os.getcwd()
    except OSError as error:
        raise EnvironmentProblem(f"the current folder cannot be used: {error.strerror}. cd to another one.") from None
    if not os.path.isabs(environ.get("HOME", "")):
        environ["HOME"] = str(home())
    for name in [name for name in environ if name.startswith("XDG_") and name.endswith("_HOME")]:
        if not os.path.isabs(environ[name]):  # the XDG standard says to ignore it
            del environ[name]
    if not environ.get("PATH"):  # an empty one would mean the current folder
        environ["PATH"] = os.defpath
    environ["MPLBACKEND"] = "agg"  # figures go into files
    if "SOURCE_DATE_EPOCH" in environ and not _whole(environ["SOURCE_DATE_EPOCH"], 0, LAST_SECOND):
        del environ["SOURCE_DATE_EPOCH"]
    if "COLUMNS" in environ and not _whole(environ["COLUMNS"], NARROWEST, WIDEST):
        del environ["COLUMNS"]
    for name in ("TMPDIR", "TEMP", "TMP"):
        if name in environ and not (os.path.isdir(environ[name]) and os.access(environ[name], os.W_OK | os.X_OK)):
            del environ[name]


def _whole(text: str, least: int, most: int) -> bool:
    with contextlib.suppress(ValueError):
        return text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most
    return False
