"""Worker processes of a forked command, forked as well: from a copy of that process, made before the command begins.

A worker forked so has no more than a new process has after its imports, which take it seconds. Tests that are about
the process itself (its start, its kill, its name) start the real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
import types
from typing import IO, Any, NoReturn


class Child:
    """What a backend uses of subprocess.Popen. The process that waits for the child tells its number and its end."""

    def __init__(self, pid: int, teller: socket.socket, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid, self.teller, self.stdin, self.stdout = pid, teller, stdin, stdout
        self.returncode: int | None = None

    def wait(self) -> int:
        told = self.teller.recv(100, socket.MSG_PEEK)  # it stays there for another thread
        self.returncode = int(told or b"-9")
        return self.returncode

    def poll(self) -> int | None:
        try:
            self.teller.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return self.wait()

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def open_for_this_process() -> None:
    """From now on the workers of this process are forked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _serve(theirs)
    theirs.close()

    def start(words: list[str], *, stderr: IO[str], env: dict[str, str], **_: Any) -> Child:
        assert words[:3] == [sys.executable, "-m", "orchestrator.execution.worker"]
        (read_in, write_in), (read_out, write_out), (teller, told) = os.pipe(), os.pipe(), socket.socketpair()
        given = [read_in, write_out, stderr.fileno(), told.fileno()]
        socket.send_fds(ours, [json.dumps([words[2:], env]).encode()], given)
        for number in (read_in, write_out):
            os.close(number)
        told.close()
        pid = int(teller.recv(20))
        teller.send(b"\n")
        return Child(pid, teller, open(write_in, "w"), open(read_out))

    from orchestrator.backends import local

    local.subprocess = types.SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)  # type: ignore[assignment]


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
