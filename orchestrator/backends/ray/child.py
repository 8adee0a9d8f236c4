"""A child process that imports Ray, so that this process never does: its environment is complete before the import,
what Ray prints goes into a file, and if Ray ends it, it ends alone. Orders and events are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.code_snapshot import snapshot

END_S = 10.0  # for a child to end by itself


class Child:
    """python: the one that runs `module`; by default that of this process. changes: of the environment (None: remove).

    It is in a session of its own, so Ctrl-C reaches the engine alone. Raises EnvironmentProblem if it does not start.
    """

    def __init__(
        self,
        module: str,
        changes: Mapping[str, str | None],
        python: str | None = None,
        arguments: Sequence[str] = (),
        end_s: float = END_S,
    ) -> None:
        self.end_s, self.python, self.ended = end_s, python or sys.executable, False
        self.kept = contextlib.ExitStack()
        code = Path(__file__).resolve().parents[3]
        if self.python != sys.executable:  # without the libraries beside our code, which are of this Python
            code = snapshot(Path(self.kept.enter_context(tempfile.TemporaryDirectory(prefix="nagbench-ray-code-"))))
        paths = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
        environment = {**os.environ, **ours, **changes}
        self.errors = self.kept.enter_context(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [self.python, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env={name: value for name, value in environment.items() if value is not None},
                start_new_session=True,
            )
        except OSError as error:
            self.kept.close()
            raise EnvironmentProblem(f"{self.python} cannot be started: {error.strerror}") from error
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.messages.put(json.loads(line))
        self.messages.put(None)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send an order. If the child is gone, `receive` tells."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message; None if none comes in time, or if the child has `ended`."""
        if self.ended:
            return None
        try:
            message = self.messages.get(timeout=timeout_s) if timeout_s > 0 else self.messages.get_nowait()
        except queue.Empty:
            return None
        self.ended = message is None
        return message

    def said(self) -> str:
        """The last line that it printed, or ""."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End it, and wait until it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(self.end_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.kept.close()
