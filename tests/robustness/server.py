"""Run commands in forks of one process that has imported everything: hundreds a minute, each alone with its limits.

A request is a line of JSON on stdin, the answer a line on stdout. `python -m tests.robustness.server light|heavy`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_CHILD_SUBREAPER = 36  # prctl: what a command leaves running becomes a child of ours
GRACE_S = 2.0  # a worker ends this soon after its engine
LIGHT_MB, HEAVY_MB = 1500, 4000  # of data, for a command that loads no torch, and for one that does
HEAVY = ("torch", "nag.models.transformer", "scipy.special", "safetensors.torch")


def preload(heavy: bool) -> None:
    for package in ("nag", "orchestrator"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if found.name != "nag.models.transformer":
                importlib.import_module(found.name)
    for name in HEAVY if heavy else ():
        importlib.import_module(name)


def command(request: dict[str, Any], memory_mb: int) -> int:
    """Be the command: what Python does between its start and its end, without the imports."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, request["stdout"]), (2, request["stderr"])):
        _connect(number, name)
    limits = {"RLIMIT_DATA": memory_mb << 20} | request["limits"]
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["real"]:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-m", "orchestrator.cli", *request["argv"]])
    sys.argv = ["nagbench", *request["argv"]]
    cli = importlib.import_module("orchestrator.cli")
    _workers_in_this_process()
    if request["undo"]:
        module, _, name = request["undo"].partition(":")
        setattr(importlib.import_module(module), name, lambda *args, **options: None)
    try:
        code = cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001  (as Python's own end)
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return 120  # as Python's own end
    return code or 0


def _connect(number: int, name: str) -> None:
    """Make standard output or error what a request says: a file, nothing, or a pipe that nobody reads."""
    if name == "closed":
        os.close(number)
    elif name == "gone":
        read, write = os.pipe()
        os.dup2(write, number)
        os.close(read)
        os.close(write)
    else:
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)


def _workers_in_this_process() -> None:
    """A worker process takes seconds to start; the same work here takes none."""
    from orchestrator.backends import local
    from orchestrator.backends.inline import Inline

    local.Local = lambda store, workers, options: Inline(store, options)  # type: ignore[assignment,misc]


def children() -> list[int]:
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:300]
    except OSError:
        return f"process {pid}"


def left_over() -> list[str]:
    """What is still running after a command, ended."""
    until = time.monotonic() + GRACE_S
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = children()
        if not found or time.monotonic() > until:
            break
        time.sleep(0.02)
    words = [words_of(pid) for pid in found]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return words


def play(request: dict[str, Any], memory_mb: int) -> dict[str, Any]:
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = command(request, memory_mb)
        finally:
            os._exit(code)
    where, interrupt_s = "", request["interrupt_s"]
    while True:
        if interrupt_s is not None and time.monotonic() - start > interrupt_s:
            os.kill(pid, signal.SIGINT)
            interrupt_s = None
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start > request["limit_s"] and not where:
            where = _stack(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.004)
    left = left_over()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "hung": bool(where),
        "where": where,
        "seconds": time.monotonic() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
        "left": left,
    }


def _stack(pid: int) -> str:
    """Where a command hangs: its own stack if it can still say so, else what the kernel waits for."""
    try:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.3)
        return f"in {Path(f'/proc/{pid}/wchan').read_text() or 'Python'}"
    except OSError:
        return "unknown"


def say_where(number: int, frame: FrameType | None) -> None:
    traceback.print_stack(frame, limit=6)


def main() -> None:
    heavy = sys.argv[1] == "heavy"
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    preload(heavy)
    signal.signal(signal.SIGUSR1, say_where)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(play(json.loads(line), HEAVY_MB if heavy else LIGHT_MB)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
