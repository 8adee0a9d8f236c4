"""A command in a process of its own, forked from a server that has its modules already: that saves a second each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.forkserver import context
from tests.orchestrator import nursery


class Command:
    """A command that has begun. before: called in its process, where a new one would have preexec_fn."""

    def __init__(
        self,
        words: list[str],
        cwd: str | Path,
        env: Mapping[str, str] = os.environ,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.words, self.folder = words, tempfile.TemporaryDirectory()
        self.files = [Path(self.folder.name, name) for name in ("out", "err")]
        arguments = (words, str(cwd), dict(env), before, *map(str, self.files))
        self.process = context().Process(target=_command, args=arguments)
        self.process.start()

    def kill(self) -> subprocess.CompletedProcess[str]:
        """End it by SIGKILL, which nothing can catch. Its workers have to notice themselves."""
        self.process.kill()
        return self.end()

    def poll(self) -> int | None:
        return self.process.exitcode

    def end(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        with self.folder:
            self.process.join(timeout)
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
                raise subprocess.TimeoutExpired(self.words, timeout)
            out, err = (file.read_text() if file.exists() else "" for file in self.files)
            return subprocess.CompletedProcess(self.words, self.process.exitcode, out, err)


def run(words: list[str], cwd: str | Path, timeout: float = 240, **options: Any) -> subprocess.CompletedProcess[str]:
    return Command(words, cwd, **options).end(timeout)


def _command(words: list[str], cwd: str, env: dict[str, str], before: Callable[[], None] | None, *files: str) -> None:
    for number, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if before is not None:
        before()
    if words[:1] in (["run"], ["score"]):
        nursery.open_for_this_process()
    sys.argv[:] = ["nagbench", *words]
    try:
        from orchestrator.cli import main

        main()
    except Exception:
        traceback.print_exc()
        raise
