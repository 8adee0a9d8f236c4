"""Closed, full or abandoned stdin, stdout and stderr.

If the reader of stdout or stderr is gone, the command ends quietly (141, like SIGPIPE in a shell). A closed or full
stdout is an error; a closed or full stderr is not, as it has messages for people only.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from orchestrator.errors import EnvironmentProblem

GONE = 141


class Gone(BrokenPipeError):
    """The reader of stdout or stderr is gone."""


class Unwritable(EnvironmentProblem):
    """stdout cannot be written."""


class _Out(io.FileIO):
    """The file below sys.stdout, with errors that cannot be mistaken for those of another file."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise Gone(*error.args) from None
        except OSError as error:
            raise Unwritable(f"standard output cannot be written: {error.strerror}. Redirect it.") from None


class _Err(io.FileIO):
    """The file below sys.stderr."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise Gone(*error.args) from None
        except OSError:
            return len(data)  # type: ignore[arg-type]


def install() -> None:
    """Replace sys.stdin, stdout and stderr. Raises Unwritable if stdout is closed."""
    missing = [number for number, file in enumerate((sys.stdin, sys.stdout, sys.stderr)) if file is None]
    for number in missing:  # else the next opened file gets the number and receives the output
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)
    if 0 in missing:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Out(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Err(2, "w", closefd=False), sys.stderr)
    if 1 in missing:
        raise Unwritable("standard output is closed. Redirect it, for example to /dev/null.")


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """A text stream that escapes characters missing in its encoding."""
    lines = bool(getattr(before, "line_buffering", raw.fileno() == 2))
    through = bool(getattr(before, "write_through", False))
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines, write_through=through
    )


def finish() -> None:
    """Flush stdout and stderr. Raises Gone or Unwritable."""
    sys.stdout.flush()
    sys.stderr.flush()


def drop() -> None:
    """Redirect unwritable streams to /dev/null, so that Python's last flush succeeds."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number, file in ((1, sys.stdout), (2, sys.stderr)):
        try:
            file.flush()
        except (OSError, EnvironmentProblem):
            os.dup2(null, number)
    os.close(null)
