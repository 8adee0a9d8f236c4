"""A private Ray: on 127.0.0.1 only, and gone with the process that started it, however that ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, metrics, run_here
from tests.ray.conftest import alive, until

RUN = """\
import sys
from orchestrator.execution import engine
from orchestrator.backends.ray.backend import Ray
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from orchestrator.errors import EnvironmentProblem
from tests.orchestrator.conftest import Quiet
store = Store(sys.argv[2])
try:
    print(engine.run(plan(read_sweep(sys.argv[1])), store, lambda: Ray(store, Options(), cpus=2), Quiet()))
except EnvironmentProblem as error:
    print(error)
    sys.exit(error.exit_code)
"""


def family(pid: int) -> dict[int, str]:
    """The processes of the sessions that this process has started, and itself: pid -> folder or command."""
    stats = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                stats[int(entry.name)] = (int(fields[1]), int(fields[3]), command)
    sessions = {session for parent, session, _ in stats.values() if parent == pid and session != pid}
    return {each: command for each, (_, session, command) in stats.items() if each == pid or session in sessions}


def listening(pids: set[int]) -> list[str]:
    """Addresses on which these processes listen, from the kernel's tables: those that are not loopback."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(link))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1].partition(":")[0])
    return found


def test_nothing_is_left_of_it(undisturbed: Ran, ray_environment: str, tmp_path: Path) -> None:
    """First the head dies, then the engine is killed while it works. The same command goes on each time, and the last
    one ends with the same numbers.
    """
    sweep, temporary = undisturbed.plan.sweep.path, tmp_path / "t"
    temporary.mkdir()
    short = Path(os.path.realpath("/tmp")) / f"nbt{os.getpid()}"  # the names of sockets are short
    short.symlink_to(temporary)
    command = [sys.executable, "-c", RUN, sweep, str(tmp_path / "store")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = (tmp_path / "said").open("w+")

    def started(blocks: int) -> subprocess.Popen[bytes]:
        """The command, once that many blocks are done."""
        made = subprocess.Popen(
            command, env=clean | {"TMPDIR": str(short)}, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            done = (tmp_path / "store").glob
            until(lambda: made.poll() is not None or len(list(done("blocks/*/0*"))) > blocks, 300)
            assert made.poll() is None
        except BaseException:
            made.kill()
            raise
        return made

    process = started(20)
    try:
        everybody = family(process.pid)
        (head,) = (pid for pid, words in everybody.items() if "gcs_server" in words.partition(" ")[0])
        os.kill(head, signal.SIGKILL)
        assert process.wait(240) == 3
        until(lambda: not any(map(alive, everybody)), 60)
        words = (tmp_path / "said").read_text()
        assert re.fullmatch(r"the Ray cluster at 127\.0\.0\.1:\d+ is gone: .* run the same command\n", words)
        said.truncate(0)
        process = started(60)
        until(lambda: any("ray::Actor" in command for command in family(process.pid).values()))
        everybody = family(process.pid)
        assert any("raylet" in command for command in everybody.values())
        assert list(temporary.glob("nagbench-ray-*"))
        assert set(listening(set(everybody))) <= {"0100007F", "0000000000000000FFFF00000100007F"}
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(map(alive, everybody)))
        until(lambda: not list(temporary.glob("nagbench-ray-*")))
    finally:
        process.kill()
        process.wait()
        short.unlink()
        said.close()
    assert (tmp_path / "said").read_text() == "", "Ray says nothing into our output"
    store = Store(str(tmp_path / "store"))
    again = run_here(sweep, store.root)
    assert 0 < again.did["sample"] < 8 * 400
    assert metrics(again.document()) == metrics(undisturbed.document())
