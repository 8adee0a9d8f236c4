"""Ctrl-C: one sentence and exit code 130, at any moment.

While a command works, the first Ctrl-C raises KeyboardInterrupt, so that workers are ended and temporary files removed;
more of them within PATIENCE_S are the same wish and change nothing. Before and after that there is nothing to tidy, and
the process ends at once. This file imports next to nothing, for it comes before everything else.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT = 130
SENTENCE = "Interrupted. What is done stays; the same command goes on from there."
PATIENCE_S = 5.0  # that tidying up may take before the next Ctrl-C ends it

_first: float | None = None  # when the Ctrl-C came that is obeyed now
_working = False
_told = False


def install() -> None:
    """Take over Ctrl-C, unless whoever started this process has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _working and _first is None:
        _first = now
        raise KeyboardInterrupt
    if not _working or (_first is not None and now - _first > PATIENCE_S):
        tell()
        os._exit(EXIT)


@contextmanager
def working() -> Iterator[None]:
    """While a command does what has to be tidied up after."""
    global _working
    _working = True
    try:
        yield
    finally:
        _working = False


def happened() -> bool:
    return _first is not None


def obeyed() -> None:
    """The command ended as it was meant to by Ctrl-C; it was no interruption."""
    global _first
    _first = None


def again() -> None:
    """A KeyboardInterrupt was lost where nothing can be raised (in a destructor): raise it once more."""
    obeyed()
    _thread.interrupt_main(signal.SIGINT)


def over() -> None:
    """The exit code is settled. (The interpreter's own end would give the signal its default back, which kills.)"""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def tell() -> None:
    """Say it, once. Written past sys.stderr, which a signal may have come in the middle of."""
    global _told
    if not _told:
        _told = True
        terminal = os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
        cursor = "\x1b[?25h" if terminal else ""  # a progress bar hides it
        try:
            sys.stderr.flush()
            os.write(2, f"{cursor}{SENTENCE}\n".encode())
        except (OSError, AttributeError, RuntimeError, ValueError):  # stderr is closed, or was just being written
            pass
