"""A private Ray instance on this machine. It ends with the process that started it, however that ends.

It listens on 127.0.0.1 only, asks for a token that is in no file, and keeps its files in one temporary folder.
`Private` starts `main` as a process in a session of its own, and that starts `_hold`, the parent of Ray's processes.
When its stdin closes, `main` kills the session and removes the folder.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

from orchestrator.errors import EnvironmentProblem

UP_S = 120.0  # on a very busy machine
TRIES = 2  # Ray itself gives up after 30 s
PATH_AT_MOST = 18  # characters of the temporary folder: a socket's path may have at most 107
OBJECT_STORE = 80 << 20  # bytes; only messages pass through Ray
ENDING = threading.Lock()
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "localhost" is 127.0.0.1, not this machine's address
}


class Private:
    """Start an instance; it has an `address` and a `token`. Raises EnvironmentProblem if it does not come up."""

    def __init__(self, cpus: int) -> None:
        self.token = secrets.token_hex(32)
        self.process: subprocess.Popen[str] | None = None
        for _ in range(TRIES):
            self.address, message = self._start(cpus)
            if self.address:
                return
            self.close()
        raise EnvironmentProblem(f"a private Ray did not start on this machine: {message or 'it printed nothing'}")

    def _start(self, cpus: int) -> tuple[str, str]:
        """Start it. Returns its address, or "", and the last line of its stderr."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [env.get("PYTHONPATH")])]
        env |= {**QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "PYTHONPATH": os.pathsep.join(paths)}
        with tempfile.TemporaryFile("w+") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(cpus)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=env,
                start_new_session=True,  # Ctrl-C reaches the engine alone
            )
            assert self.process.stdout is not None
            timer = threading.Timer(UP_S, self.process.kill)
            timer.start()
            address = self.process.stdout.readline().strip()
            timer.cancel()
            errors.seek(0)
            lines = [line for line in errors.read().splitlines() if line.strip()]
            return address, lines[-1] if lines else ""

    def close(self) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


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


def _hold(cpus: int, folder: str) -> None:
    """Start Ray, print its address, and wait until stdin closes."""
    import ray

    context: Any = ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=f"{folder}/r",  # Ray lets everybody read this folder; the one around it is ours alone
    )
    os.write(int(sys.argv[3]), (context.address_info["gcs_address"] + "\n").encode())
    sys.stdin.read()
    os._exit(0)  # Ray's processes die with their parent


def main() -> None:
    """`python -m orchestrator.backends.ray.private CPUS`: print the address, and end when stdin closes."""
    if len(sys.argv) > 2:
        return _hold(int(sys.argv[1]), sys.argv[2])
    short = len(tempfile.gettempdir()) <= PATH_AT_MOST
    folder = tempfile.mkdtemp(prefix="nagbench-ray-", dir=None if short else "/tmp")
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: _end(folder))
    out = os.dup(1)
    os.dup2(2, 1)  # what Ray prints goes to the log
    command = [sys.executable, "-m", "orchestrator.backends.ray.private", sys.argv[1], folder, str(out)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[out])
    os.close(out)

    def watch() -> None:
        holder.wait()
        _end(folder)

    threading.Thread(target=watch, daemon=True).start()
    sys.stdin.read()
    _end(folder)
    return None


if __name__ == "__main__":
    main()
