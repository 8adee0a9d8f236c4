"""A real Slurm cluster of our own on this machine, for as long as a `with` block lasts.

munged, slurmctld, two slurmd (n1, n2: four CPUs and two fake GPUs each) and, with accounting, MariaDB and slurmdbd. All
files are in one folder, ports are free ones, and every process is one that we started: it is known by our handle or by
our mark in its environment. Needs the Slurm of Debian and root (slurmd runs jobs as the user who submits them).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.slurm.configuration import Ports, Settings, write

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol")
FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
MARK = "NAGBENCH_TEST_NODE"  # in the environment of a slurmd and of the slurmstepd that it starts
PORTS = range(20_000, 30_000)  # below those that the system gives to clients
UP_S = 90.0
ACCOUNT = "lab"  # with accounting: the account that root has, and the QoS that it may use
QOS = ("normal", "fast")


def absent(accounting: bool = True) -> str | None:
    """Why no cluster can run here, or None."""
    needed = NEEDED + (FOR_ACCOUNTING if accounting else ())
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"no Slurm on this machine: {', '.join(missing)} not found"
    if os.geteuid() != 0:
        return "a Slurm cluster of our own needs root"
    return None


def wait(true: Callable[[], object], what: str, seconds: float = UP_S, every_s: float = 0.05) -> None:
    """Wait until `true()`; a connection that fails, or a command, is not true yet. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, subprocess.SubprocessError, RuntimeError):
            if true():
                return
        time.sleep(every_s)
    raise TimeoutError(f"after {seconds:.0f} s still not: {what}")


def free_ports(count: int) -> list[int]:
    """Free ports, found by listening on all of them at once."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError("no free ports")


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def processes() -> dict[int, int]:
    """Every process: its id and its parent's."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def with_children(roots: set[int]) -> set[int]:
    parents = processes()
    found, grew = set(roots), True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grew = found | more, bool(more)
    return found


@dataclass
class Cluster:
    """A running cluster. env: what its commands need. beside: one whose munged, database and slurmdbd it shares."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    beside: Cluster | None = None

    def __post_init__(self) -> None:
        slurmctld, slurmdbd, database, *nodes = free_ports(3 + self.settings.nodes)
        self.ports = Ports(self.folder / "munge.sock", slurmctld, slurmdbd, database, tuple(nodes))
        if self.beside is not None:
            shared = self.beside.ports
            self.ports = replace(self.ports, munge=shared.munge, slurmdbd=shared.slurmdbd, database=shared.database)
        self.nodes, self.name = self.settings.names, f"test{slurmctld}"
        self.conf = self.folder / "slurm.conf"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))}
        self.env = kept | {"SLURM_CONF": str(self.conf)}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    # The life of the cluster.

    def start(self) -> None:
        write(self.folder, self.settings, self.ports)
        if self.beside is None:
            self.start_munged()
            if self.settings.accounting:
                self.start_database()
                self.start_slurmdbd()
        self.start_slurmctld()
        for node in self.nodes:
            self.start_slurmd(node, wait_s=0)
        wait(lambda: self.idle() == len(self.nodes), f"{len(self.nodes)} nodes are idle")
        if self.settings.accounting:
            self.add_account()

    def stop(self) -> None:
        """End every process, first with SIGTERM, and find strays by our mark."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            with contextlib.suppress(Exception):  # a cluster that a test has broken
                self.run("scancel", "--user=root", timeout=20)
                wait(lambda: not self.jobs(), "the queue is empty", self.settings.kill_wait_s + 5)
        for name in reversed(self.daemons):  # slurmd, slurmctld, slurmdbd, mariadbd, munged
            daemon = self.daemons[name]
            daemon.send_signal(signal.SIGCONT)
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for _ in range(3):
            for pid in self.strays():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def strays(self) -> set[int]:
        mark = f"SLURM_CONF={self.conf}".encode()
        return {pid for pid in processes() if pid != os.getpid() and mark in environment(pid)} - with_parents()

    def daemon(self, name: str, *command: str, mark: str = "") -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.env | ({MARK: self.mark(mark)} if mark else {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )

    def up(self, name: str, true: Callable[[], object]) -> None:
        """Wait until a daemon is up. Raises RuntimeError if it has ended instead."""
        wait(lambda: self.daemons[name].poll() is not None or true(), f"{name} is up")
        if self.daemons[name].poll() is not None:
            raise RuntimeError(f"{name} ended with {self.daemons[name].returncode}\n{self.logs}")

    def start_munged(self) -> None:
        self.daemon(
            *("munged", "munged", "-F", "--force", f"--socket={self.ports.munge}"),
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")),
        )
        self.up("munged", self.ports.munge.exists)

    def start_database(self) -> None:
        common = ["--no-defaults", "--user=root", f"--datadir={self.folder}/mysql", "--innodb-log-file-size=8M"]
        common += ["--innodb-doublewrite=0", "--innodb-flush-log-at-trx-commit=0"]  # nobody needs it after a crash
        prepared = ["mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(prepared, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.daemon(
            "mariadbd",
            *("mariadbd", *common, f"--socket={self.folder}/sql.sock", "--innodb-buffer-pool-size=64M"),
            *(f"--port={self.ports.database}", "--bind-address=127.0.0.1", "--skip-grant-tables"),
        )
        self.up("mariadbd", lambda: answers(self.ports.database))

    def add_account(self) -> None:
        """root gets an account and a second QoS; slurmctld hears of them at once."""
        wait(lambda: self.name in self.run("sacctmgr", "-nP", "show", "cluster").stdout, "the cluster is registered")
        limit = [f"MaxSubmitJobs={self.settings.max_submit}"] if self.settings.max_submit else []
        if self.beside is None:
            self.out("sacctmgr", "-i", "add", "qos", QOS[1])
        here = f"Cluster={self.name}"
        self.out("sacctmgr", "-i", "add", "account", ACCOUNT, "Description=lab", "Organization=lab", here)
        self.out("sacctmgr", "-i", "add", "user", "root", f"Account={ACCOUNT}", here)
        self.out(
            *("sacctmgr", "-i", "modify", "user", "root", "where", here, "set", f"DefaultAccount={ACCOUNT}"),
            *(f"QOS={','.join(QOS)}", "DefaultQOS=normal", *limit),
        )
        wait(lambda: f"Account={ACCOUNT} " in self.run("scontrol", "show", "assoc_mgr").stdout, "slurmctld knows it")

    def add_user(self, name: str) -> None:
        """An account of the system may submit here too."""
        self.out("sacctmgr", "-i", "add", "user", name, f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}")
        wait(lambda: f"UserName={name}(" in self.run("scontrol", "show", "assoc_mgr").stdout, f"it knows {name}")

    # What a test breaks and mends.

    def start_slurmdbd(self) -> None:
        self.daemon("slurmdbd", "slurmdbd", "-D")
        self.up("slurmdbd", lambda: answers(self.ports.slurmdbd))

    def stop_slurmdbd(self) -> None:
        self.kill("slurmdbd")

    def start_slurmctld(self) -> None:
        self.daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self.up("slurmctld", lambda: answers(self.ports.slurmctld) and self.out("scontrol", "ping"))

    def stop_slurmctld(self) -> None:
        self.kill("slurmctld")

    def restart_slurmctld(self) -> None:
        """As an administrator does: it writes down what it knows. (Killed, it forgets the last seconds, and drains the
        nodes on which it then finds jobs that it does not know to run.)
        """
        self.daemons["slurmctld"].terminate()
        self.daemons["slurmctld"].wait(90)
        self.start_slurmctld()

    def resume(self) -> None:
        """Take every node that is drained or down back into use."""
        for node in self.nodes:
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def start_slurmd(self, node: str, wait_s: float = UP_S) -> None:
        self.daemon(f"slurmd.{node}", "slurmd", "-D", "-N", node, "-f", str(self.conf), mark=node)
        if wait_s:
            wait(
                lambda: self.node_state(node) in ("idle", "mixed", "allocated", "completing"), f"{node} is back", wait_s
            )

    def mark(self, node: str) -> str:
        """A node of this cluster: there may be several clusters at once, and each has an n1."""
        return f"{self.folder}:{node}"

    def kill_slurmd(self, node: str, with_tasks: bool) -> None:
        """As if its daemon had crashed, or (with_tasks) as if the machine had lost its power."""
        mark = f"{MARK}={self.mark(node)}".encode()
        steps = {pid for pid in processes() if mark in environment(pid)}
        tasks = with_children(steps) - {self.daemons[f"slurmd.{node}"].pid}
        for pid in sorted(tasks) if with_tasks else ():  # none of them has the time to say that another one is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.kill(f"slurmd.{node}")
        while with_tasks and (left := [pid for pid in tasks if alive(pid)]):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def kill(self, name: str) -> None:
        self.daemons[name].kill()
        self.daemons[name].wait()

    def without(self, *names: str) -> dict[str, str]:
        """An environment in which some commands are not installed: `without("sacct")`."""
        folder = self.folder / f"without-{'-'.join(names)}"
        if not folder.exists():
            folder.mkdir()
            for place in reversed(os.environ["PATH"].split(os.pathsep)):
                for command in Path(place).glob("*"):
                    link = folder / command.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(command)
            for name in names:
                (folder / name).unlink(missing_ok=True)
        return self.env | {"PATH": str(folder)}

    def failing(self, name: str, words: str, code: int = 1) -> dict[str, str]:
        """An environment in which a command prints something on stderr and fails."""
        return self._instead(name, f"cat >&2 <<'END'\n{words}\nEND\nexit {code}\n")

    def saying(self, name: str, words: str) -> dict[str, str]:
        """An environment in which a command prints something."""
        return self._instead(name, f"cat <<'END'\n{words}\nEND\n")

    def _instead(self, name: str, body: str) -> dict[str, str]:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        (folder / name).write_text(f"#!/bin/sh\n{body}")
        (folder / name).chmod(0o755)
        return self.env | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    # What it says.

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False)

    def out(self, *command: str) -> str:
        done = self.run(*command)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def idle(self) -> int:
        return int(self.out("sinfo", "-h", "-p", "gpu", "-t", "idle", "-o", "%D").strip() or 0)

    def node_state(self, node: str) -> str:
        return self.out("sinfo", "-h", "-n", node, "-p", "gpu", "-o", "%T").strip()

    def jobs(self) -> dict[str, str]:
        """Jobs that are not over: id (`7` or `7_0`) and state."""
        lines = self.out("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, seconds: float = 120) -> None:
        """Until no job is left and every node is free."""
        wait(lambda: not self.jobs(), "no job is left", seconds, 0.2)
        wait(lambda: self.idle() == len(self.nodes), "every node is idle", seconds, 0.2)

    def submit(self, script: str, *options: str) -> str:
        """`sbatch` of a shell script; the job's id."""
        options = ("--parsable", f"--output={self.folder}/%A_%a.log", *options)
        done = subprocess.run(
            ("sbatch", *options),
            env=self.env,
            input=f"#!/bin/bash\n{script}\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout.strip()

    @property
    def logs(self) -> str:
        """The end of what every daemon wrote, for the message of a test that fails."""
        found = [path for path in sorted(self.folder.glob("*.out")) if path.stat().st_size]
        return "\n".join(
            f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:]) for path in found
        )


def with_parents() -> set[int]:
    """This process and those above it."""
    parents, found, pid = processes(), set(), os.getpid()
    while pid in parents:
        found.add(pid)
        pid = parents[pid]
    return found


@contextlib.contextmanager
def cluster(folder: Path, settings: Settings | None = None, beside: Cluster | None = None) -> Iterator[Cluster]:
    """A cluster in a folder that is not there yet."""
    folder.mkdir(parents=True)
    made = Cluster(folder, settings or Settings(), beside)
    try:
        made.start()
        yield made
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{made.logs}") from error
    finally:
        made.stop()


def main(arguments: Sequence[str]) -> None:
    """`python -m tests.slurm.cluster FOLDER`: a cluster to try things on, until the input ends."""
    import sys

    began = time.monotonic()
    with cluster(Path(arguments[0])) as made:
        sys.stdout.write(f"ready in {time.monotonic() - began:.1f} s: export SLURM_CONF={made.conf}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
