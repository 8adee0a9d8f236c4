"""Worker processes that are forked: those of a forked command from a copy of it, made before the command begins; those
of a backend in a test from the server of forks.

A worker forked so has no more than a new process has after its imports, which take it seconds. Tests that are about
the process itself (its start, its kill, its name) start the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from orchestrator.backends import local
from tests.forkserver import context


class Child:
    """What a backend uses of subprocess.Popen. The process that waits for the child tells its number and its end by
    the file descriptor `teller`.
    """

    def __init__(self, pid: int, teller: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid, self.teller, self.stdin, self.stdout = pid, teller, stdin, stdout
        self.returncode: int | None = None
        self.reading = threading.Lock()

    def __del__(self) -> None:
        os.close(self.teller)

    def wait(self) -> int:
        with self.reading:
            if self.returncode is None:
                self.returncode = int(os.read(self.teller, 100) or b"-9")
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.teller], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def open_for_this_process() -> None:
    """From now on the workers of this process are forked from a copy of it as it is now."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _serve(theirs)
    theirs.close()
    local.subprocess = _popen(ours)  # type: ignore[assignment]


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """Meanwhile the workers of this process are forked from the server of tests/forkserver.py."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = context().Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    theirs.close()
    plain, local.subprocess = local.subprocess, _popen(ours)  # type: ignore[assignment]
    try:
        yield
    finally:
        local.subprocess = plain
        ours.close()
        server.join()


def _popen(nursery: socket.socket) -> types.SimpleNamespace:
    """What stands for the module `subprocess`."""

    def start(words: list[str], *, stderr: IO[str], env: dict[str, str], **_: Any) -> Child:
        assert words[:3] == [sys.executable, "-m", "orchestrator.execution.worker"]
        (read_in, write_in), (read_out, write_out), (teller, told) = os.pipe(), os.pipe(), socket.socketpair()
        given = [read_in, write_out, stderr.fileno(), told.fileno()]
        socket.send_fds(nursery, [json.dumps([words[2:], env]).encode()], given)
        for number in (read_in, write_out):
            os.close(number)
        told.close()
        pid = int(teller.recv(20))
        teller.send(b"\n")
        return Child(pid, teller.detach(), open(write_in, "w"), open(read_out))

    return types.SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)


def _serve(requests: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, given, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not request:
            os._exit(0)
        if not os.fork():
            requests.close()
            _wait_for_a_worker(*json.loads(request), *given)
        for number in given:
            os.close(number)


def _wait_for_a_worker(words: list[str], env: dict[str, str], *given: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if not pid:
        os.close(given[3])
        _be_a_worker(words, env, *given[:3])
    for number in given[:3]:
        os.close(number)
    teller = socket.socket(fileno=given[3])
    teller.send(b"%d" % pid)
    teller.recv(1)  # it was read
    teller.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _be_a_worker(words: list[str], env: dict[str, str], *streams: int) -> NoReturn:
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = os.fdopen(0, closefd=False)
        os.environ.clear()
        os.environ.update(env)
        sys.argv[:] = words
        from orchestrator.execution.worker import main

        main()
    except BaseException:  # noqa: BLE001  (as Python's own end)
        traceback.print_exc()
    os._exit(1)
