"""The tree of exceptions. Only commands/outermost.py reports them to users.

NagbenchError
├── BadInput            exit 2: the sweep, an option or a file from the user is wrong
│   └── SpecError       the same, with the place in the YAML
├── EnvironmentProblem  exit 3: a missing library, an unreachable server
│   └── TransientError  worth another try: a store that cannot be written, a scheduler that does not answer
└── TaskError           exit 1: a task could not do its work
    ├── NotFinite       values of a network or a training became NaN or infinite
    └── CorruptFile     a file of the store does not match its checksum; it has been set aside
        ├── MissingFile     a file of the store does not exist, or no longer
        └── Unreadable      exit 3: a file of the store cannot be read (permissions, not a regular file); it stays
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

from orchestrator.display import brief, message

NAMES_AT_MOST = 60  # in a message


class NagbenchError(Exception):
    """Base class; `str(error)` is the whole message for the user."""

    exit_code = 1

    def __str__(self) -> str:
        return message(super().__str__())


class BadInput(NagbenchError):
    exit_code = 2


class SpecError(BadInput):
    """A mistake in a sweep file: `sweeps/x.yaml:14: arms.cfg.cfg: unknown key 'scal'. Did you mean 'scale'? ...`"""

    def __init__(self, file: str, line: int | None, key: str, message: str) -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: {key}: {message}" if key else f"{place}: {message}")
        self.file, self.line, self.key, self.message = file, line, key, message

    def adding(self, words: str) -> SpecError:
        return SpecError(self.file, self.line, self.key, f"{self.message} {words}")


class EnvironmentProblem(NagbenchError):
    exit_code = 3


class TransientError(EnvironmentProblem):
    pass


class TaskError(NagbenchError):
    pass


class NotFinite(TaskError):
    pass


class CorruptFile(TaskError):
    pass


class MissingFile(CorruptFile, FileNotFoundError):
    pass


class Unreadable(CorruptFile):
    exit_code = 3


@contextlib.contextmanager
def file_errors(what: str, kind: type[NagbenchError] = EnvironmentProblem) -> Iterator[None]:
    """Turn an OSError (no space, no permission, a folder in place of a file) into a NagbenchError.

    what: the start of the message, such as "report.html cannot be written".
    """
    try:
        yield
    except NagbenchError:  # MissingFile is an OSError too
        raise
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}.") from error


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name, with the closest and all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(brief(str(name)), names, n=3)
    swapped = [other for other in close if sorted(other) == sorted(str(name))]  # two letters, as in fdi
    hint = f" Did you mean {brief([*swapped, *close][0])!r}?" if close else ""
    listed = ", ".join(map(brief, names[:NAMES_AT_MOST])) or "none"
    more = f" and {len(names) - NAMES_AT_MOST:,} more" if len(names) > NAMES_AT_MOST else ""
    shown = brief(name) if isinstance(name, str) else name
    return f"unknown {kind} {shown!r}.{hint} Known: {listed}{more}."
