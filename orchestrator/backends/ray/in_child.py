"""What the processes behind a Child share: this side of the pipe, and the import of Ray. Like all that runs there, it
needs nothing but Ray and the standard library.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

OLDEST = (2, 52)  # Ray's series; as in pyproject.toml
END_S = 5.0  # for Ray to disconnect once the engine is gone


class Pipe:
    """Messages from and to the engine. What a library prints goes to stderr. Once the input has ended, this process
    ends within END_S, whatever Ray is busy with.
    """

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.lock = threading.Lock()
        self.orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.orders.put(json.loads(line))
        threading.Timer(END_S, os._exit, [0]).start()
        self.orders.put(None)

    def send(self, **message: Any) -> None:
        with self.lock:
            self.out.write(json.dumps(message) + "\n")
            self.out.flush()


def import_ray(refuse: Callable[[str], None]) -> Any:
    """Import Ray. If it is not there or too old, say so and end this process."""
    try:
        import ray
    except ImportError as error:
        problem = f"Ray is not installed for {sys.executable}: pip install 'nagbench[ray]'"
        if error.name != "ray":
            problem = f"Ray cannot be imported by {sys.executable}: {error}"
    else:
        series = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
        if series >= OLDEST:
            return ray
        oldest = ".".join(map(str, OLDEST))
        problem = f"Ray {ray.__version__} is too old; nagbench needs {oldest} or newer: pip install 'nagbench[ray]'"
    refuse(problem)
    os._exit(0)


def errors_of(error: BaseException) -> list[str]:
    """An error and its causes, in words."""
    found, each = [], error
    while each is not None:
        found.append(f"{type(each).__name__}: {each}")
        each = each.__cause__ or each.__context__  # type: ignore[assignment]
    return found
