"""A private Ray instance on this machine. It ends with the process that started it, however that ends.

It listens on 127.0.0.1 only, asks for a token that is in no file, and keeps its files in one temporary folder.
`Private` starts `main` as a process in a session of its own, and that runs `ray start`. When its stdin closes, `main`
kills the session and removes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from nag.distributed import free_port
from orchestrator.backends.ray.child import Child
from orchestrator.errors import EnvironmentProblem

UP_S = 120.0  # on a very busy machine
TRIES = 2  # Ray itself gives up after 30 s
PATH_AT_MOST = 18  # characters of the temporary folder: a socket's path may have at most 107
OBJECT_STORE = 80 << 20  # bytes; only messages pass through Ray
STARTED = "Ray runtime started"  # in the output of `ray start`, which does not tell the address of a loopback
ENDING = threading.Lock()
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a head that has died does not come back
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "localhost" is 127.0.0.1, not this machine's address
}


class Private:
    """Start an instance; it has an `address`, and the `environment` of those who connect. python: the one that has Ray.
    Raises EnvironmentProblem if it does not come up.
    """

    def __init__(self, cpus: int, python: str | None = None) -> None:
        ours = dict.fromkeys(name for name in os.environ if name.startswith("RAY_"))
        self.environment = {**QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        for _ in range(TRIES):
            self.child = Child(__name__, {**ours, **self.environment}, python, [str(cpus)], end_s=30.0)
            answer = self.child.receive(UP_S) or {"problem": self.child.said() or "it printed nothing"}
            if "address" in answer:
                self.address = answer["address"]
                return
            self.close()
        raise EnvironmentProblem(f"a private Ray did not start on this machine: {answer['problem']}")

    def close(self) -> None:
        self.child.close()


def _session() -> list[int]:
    """The other processes in this process's session."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == os.getpid() != int(entry.name) and fields[0] != "Z":
                pids.append(int(entry.name))
    return pids


def _end(folder: str) -> None:
    """Kill the session and remove the folder."""
    ENDING.acquire()  # a second caller waits until this process is gone
    while pids := _session():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.isdir("/proc/self"):  # processes cannot be listed here; most are in our group
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """`python -m orchestrator.backends.ray.private CPUS`: print the address, and end when stdin closes."""
    short = len(tempfile.gettempdir()) <= PATH_AT_MOST
    folder = tempfile.mkdtemp(prefix="nagbench-ray-", dir=None if short else "/tmp")
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: _end(folder))
    port = free_port()  # if another process takes it meanwhile, the next try has another one
    where = ["--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", f"{folder}/r"]  # everybody may read r
    size = ["--num-cpus", sys.argv[1], "--object-store-memory", str(OBJECT_STORE), "--include-dashboard", "false"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *where, *size, "--block"]
    ray = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        assert ray.stdout is not None
        for line in ray.stdout:
            sys.stderr.write(line)
            if STARTED in line:
                sys.stdout.write(json.dumps({"address": f"127.0.0.1:{port}"}) + "\n")
                sys.stdout.flush()
        ray.wait()
        _end(folder)

    threading.Thread(target=watch, daemon=True).start()
    sys.stdin.read()
    _end(folder)


if __name__ == "__main__":
    main()
