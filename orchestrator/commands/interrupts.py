"""Ctrl-C: one sentence and exit code 130, at any moment.

While a command works, the first Ctrl-C raises KeyboardInterrupt, so that workers are ended and temporary files removed;
further ones within PATIENCE_S are ignored. Before and after that there is nothing to clean up, and the process ends at
once. This file imports almost nothing, because it is imported first.
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
SENTENCE = "Interrupted. Finished work stays; run the same command to continue."
PATIENCE_S = 5.0  # for cleaning up, before another Ctrl-C ends the process

_first: float | None = None  # time of the Ctrl-C that is being handled
_working = False
_printed = False


def install() -> None:
    """Handle Ctrl-C, unless the parent process made this one ignore it."""
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
    """For the work of a command: a Ctrl-C raises KeyboardInterrupt, so that it can clean up."""
    global _working
    _working = True
    try:
        yield
    finally:
        _working = False


def happened() -> bool:
    return _first is not None


def obeyed() -> None:
    """Forget the Ctrl-C: it was the normal end of the command."""
    global _first
    _first = None


def raise_lost() -> None:
    """Raise again a KeyboardInterrupt that was lost in a destructor."""
    obeyed()
    _thread.interrupt_main(signal.SIGINT)


def over() -> None:
    """Ignore Ctrl-C from now on: the exit code is final. (At its exit Python restores the default, which kills.)"""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A Ctrl-C within exec(text), as in @dataclass, makes Python kill itself at its exit; another exec undoes that.
    exec("")  # noqa: S102


def tell() -> None:
    """Print the sentence, once. Not through sys.stderr, as the signal may have interrupted a write to it."""
    global _printed
    if not _printed:
        _printed = True
        terminal = os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
        cursor = "\x1b[?25h" if terminal else ""  # a progress bar hides it
        try:
            sys.stderr.flush()
            os.write(2, f"{cursor}{SENTENCE}\n".encode())
        except (OSError, AttributeError, RuntimeError, ValueError):  # stderr is closed, or was just being written
            pass
