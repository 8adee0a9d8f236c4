"""The outermost handler: whatever ends a command becomes one message and an exit code (orchestrator.errors).

The traceback of an unexpected error goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nag.cache import folder
from orchestrator.commands import environment, interrupts, streams
from orchestrator.display import brief, message
from orchestrator.errors import NagbenchError

UNFORESEEN = 3
KEPT = 20  # files with tracebacks

tracebacks_wanted = False  # `run --here` shows the traceback itself


def guard(body: Callable[[], int | None]) -> int:
    """Call `body`, report the error that ends it, and return the exit code of the process."""
    try:
        threading.excepthook = _in_thread
        sys.unraisablehook = _unraisable
        streams.install()
        environment.settle()
        code = body() or 0
        streams.finish()
        if interrupts.happened():  # something swallowed the KeyboardInterrupt
            raise KeyboardInterrupt
        return code
    except BaseException as error:  # noqa: BLE001  (the outermost handler)
        return _ended(error)
    finally:
        streams.drop()
        interrupts.over()


def _ended(error: BaseException) -> int:
    try:
        if isinstance(error, SystemExit) and not any(isinstance(each, streams.Gone) for each in chain(error)):
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        return tell(error)
    except (OSError, NagbenchError):  # the error cannot be reported
        return streams.GONE if isinstance(error, BrokenPipeError) else getattr(error, "exit_code", UNFORESEEN)


def tell(error: BaseException, as_json: bool | None = None) -> int:
    """Print an error for the user; returns the exit code. as_json: by default, if --json is on the command line."""
    if interrupts.happened() or isinstance(error, KeyboardInterrupt):
        interrupts.tell()
        return interrupts.EXIT
    if any(isinstance(each, streams.Gone) for each in chain(error)):
        return streams.GONE
    text, code = _words(error)
    if isinstance(error, streams.Unwritable):
        streams.drop()  # else the last flush fails with the same error
    if as_json if as_json is not None else "--json" in sys.argv[1:]:
        with contextlib.suppress(streams.Unwritable):
            sys.stdout.write(json.dumps({"error": text, "exit_code": code}, indent=2) + "\n")
            sys.stdout.flush()
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    sys.stderr.write(f"\x1b[31m{text}\x1b[0m\n" if colours else f"{text}\n")
    sys.stderr.flush()
    return code


def _words(error: BaseException) -> tuple[str, int]:
    if isinstance(error, NagbenchError):
        return str(error), error.exit_code
    if hasattr(error, "format_message") and hasattr(
        error, "exit_code"
    ):  # from click: a wrong option, a missing argument
        return usage_message(error)
    if tracebacks_wanted and isinstance(error, Exception):
        return "".join(traceback.format_exception(error)).rstrip(), 1
    log = keep_traceback(error)
    where = f" The traceback is in {log}." if log else ""
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this.{where}", UNFORESEEN
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return message(f"{place}{error.strerror}.{where}"), UNFORESEEN
    first_line = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    words = f"nagbench has met an unexpected error: {type(error).__name__}: {brief(first_line, 300)}.{where}"
    return message(words), UNFORESEEN


def usage_message(error: Any) -> tuple[str, int]:
    """The message for a mistake in the command line."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "nagbench"
    text = " ".join(error.format_message().split())
    return message(f"{command}: {text} See {command} --help."), int(error.exit_code)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def keep_traceback(error: BaseException) -> Path | None:
    """Write a traceback to a file that only the user can read. Returns its path, or None if none can be written."""
    from orchestrator.display import address

    text = "".join(traceback.format_exception(error))
    command = " ".join(map(repr, sys.argv))
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {address(command)}\n{address(text)}"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-"
    for place in (lambda: str(folder("errors")), tempfile.gettempdir):
        with contextlib.suppress(OSError):
            into = place()
            if place is not tempfile.gettempdir:
                os.makedirs(into, mode=0o700, exist_ok=True)
                for old in sorted(Path(into).glob("*.log"))[: -KEPT + 1]:
                    old.unlink(missing_ok=True)
                prefix = name
            else:
                prefix = f"nagbench-{name}"
            handle, path = tempfile.mkstemp(suffix=".log", prefix=prefix, dir=into)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(path)
    return None


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or isinstance(args.exc_value, SystemExit | streams.Gone):
        return
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"{_words(args.exc_value)[0]}\n")


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """An error in a destructor or callback: raise a Ctrl-C again, write other tracebacks to a file."""
    if isinstance(args.exc_value, KeyboardInterrupt):
        interrupts.raise_lost()
    elif args.exc_value is not None and not isinstance(args.exc_value, OSError):
        keep_traceback(args.exc_value)
