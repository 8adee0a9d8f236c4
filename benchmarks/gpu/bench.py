"""What a part is given: the device, its time, and where its rows go."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Bench:
    """tiny: networks and counts so small that a CPU does all parts in a minute. seconds: for this part."""

    device: str
    tiny: bool
    vectors: Path | None
    images: Path | None
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that this part still has. It asks before each measurement, and ends by itself."""
        return self.seconds - (time.monotonic() - self.began)

    def row(self, **columns: Any) -> None:
        """A row of the part's table, kept whatever happens later."""
        self.rows.append(columns)
        print("  " + ", ".join(f"{name} {value}" for name, value in columns.items()), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print(f"  {text}", file=sys.stderr, flush=True)


class OverTime(BaseException):
    """A part took longer than its time. Not an Exception, which a library might catch on the way."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OverTime in this thread, the main one, after so many seconds: also within a compilation."""

    def end(*_: Any) -> None:
        raise OverTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
