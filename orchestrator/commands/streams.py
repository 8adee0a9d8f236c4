"""Standard input, output and error of a command: what a closed, full or deserted one means.

A reader of stdout or stderr that is gone ends the command quietly (141, as a shell shows SIGPIPE). A stdout that is
closed or full is an error. A stderr that is closed or full is not: what is said there is for people only.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from orchestrator.errors import EnvironmentProblem

GONE = 141


class Gone(BrokenPipeError):
    """Whoever read our output has seen enough."""


class Unwritable(EnvironmentProblem):
    """What is to be printed cannot be."""


class _Out(io.FileIO):
    """The file below sys.stdout, with errors that nobody takes for those of another file."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise Gone(*error.args) from None
        except OSError as error:
            raise Unwritable(f"standard output cannot be written: {error.strerror}. Send it elsewhere.") from None


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
    """Put them in place. Raises Unwritable where stdout is closed."""
    missing = [number for number, file in enumerate((sys.stdin, sys.stdout, sys.stderr)) if file is None]
    for number in missing:  # else the next file that is opened gets the number, and what is printed goes into it
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
        raise Unwritable("standard output is closed. Send it somewhere, such as > /dev/null.")


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """Characters that the encoding lacks are escaped."""
    lines = bool(getattr(before, "line_buffering", raw.fileno() == 2))
    through = bool(getattr(before, "write_through", False))
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines, write_through=through
    )


def finish() -> None:
    """Write what is left. Raises Gone or Unwritable."""
    sys.stdout.flush()
    sys.stderr.flush()


def drop() -> None:
    """Let the interpreter's own last flush succeed, whatever became of the files."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number, file in ((1, sys.stdout), (2, sys.stderr)):
        try:
            file.flush()
        except (OSError, EnvironmentProblem):
            os.dup2(null, number)
    os.close(null)
