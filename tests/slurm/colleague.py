"""A second account of the system that works on the store of a trial: a real user, whose jobs run as that user.

The interpreter and the code may be where only root can look (root's home, a CI machine's folder): mounts show them to
everybody.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.accounts import Account
from tests.slurm.faults import Trial
from tests.slurm.running import ROOT, changed

SAID = 300.0  # seconds until a command must have ended


@dataclass(frozen=True)
class Shown:
    """What every user of this machine can read: Python, and the folders of packages and code."""

    python: Path
    library: Path  # of the interpreter, if that is a shared one
    folders: tuple[Path, Path]

    @property
    def path(self) -> str:
        return os.pathsep.join(map(str, self.folders))


@contextlib.contextmanager
def open_to_all(folder: Path) -> Iterator[Shown]:
    """Show this process's Python and code in a folder that everybody can read."""
    folders = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "code": str(ROOT)}
    with contextlib.ExitStack() as stack:
        for name, source in folders.items():
            (folder / name).mkdir(parents=True)
            subprocess.run(["mount", "-o", "bind,ro", source, folder / name], check=True)  # nothing here deletes it
            stack.callback(subprocess.run, ["umount", "--lazy", folder / name], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        python = folder / "python"
        yield Shown(python / "bin" / version, python / "lib", (folder / "code", folder / "packages"))


@dataclass
class Colleague:
    """Another user, in a folder of their own, with the sweep of a trial and its store, which is the group's."""

    account: Account
    group: str
    trial: Trial
    shown: Shown
    said: list[subprocess.CompletedProcess[str]] = field(default_factory=list)  # by each command
    _running: tuple[str, subprocess.Popen[str]] | None = None

    def __post_init__(self) -> None:
        """Call before anything of the trial has run: its site file is made that of the group."""
        self.folder = self.trial.folder / "colleague"
        self.folder.mkdir()
        for name in ("sweep.yaml", "paced.py"):
            shutil.copy(self.trial.folder / name, self.folder)
        site = self.trial.folder / "site.yaml"
        text = f"{site.read_text()}group: {self.group}\n"
        site.write_text(text)
        packages = f"export LD_LIBRARY_PATH={self.shown.library}; "
        packages += f"export PYTHONPATH={self.shown.folders[1]}${{PYTHONPATH:+:$PYTHONPATH}}"
        own = changed(text, f"folder: {self.trial.folder}/shared", f"folder: {self.folder}/shared")
        own = changed(own, "]\ngroup:", f", {json.dumps(packages)}]\ngroup:")
        (self.folder / "site.yaml").write_text(f"{own}python: {self.shown.python}\n")
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, self.account.uid, self.account.gid)
        for name in ("calls", "steps"):  # to which array tasks of both append
            (self.trial.faults / name).touch()
            (self.trial.faults / name).chmod(0o666)

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        self.begin(command, *options)
        return self.end()

    def begin(self, command: str, *options: str) -> None:
        """Start a command, after the last one has ended."""
        self.end()
        words = self.trial.command(command, *options)
        words = [str(self.shown.python), "-m", "orchestrator.cli", *words, "--store", self.trial.store.root]
        before = self.trial.env["PYTHONPATH"].partition(os.pathsep)[0]
        env = {**self.trial.env, "PYTHONPATH": f"{before}{os.pathsep}{self.shown.path}", "HOME": "/nonexistent"}
        env["LD_LIBRARY_PATH"] = str(self.shown.library)
        who: dict[str, Any] = {"user": self.account.uid, "group": self.account.gid, "umask": 0o022}
        process = subprocess.Popen(
            words,
            env={**env, "USER": self.account.name, "LOGNAME": self.account.name},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            extra_groups=self.account.groups,
            **who,
        )
        self._running = command, process

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait for the command that was begun last."""
        if self._running is None:
            return subprocess.CompletedProcess([], 0, "", "")
        (command, process), self._running = self._running, None
        out, err = process.communicate(timeout=SAID)
        self.said.append(subprocess.CompletedProcess([command], process.returncode, out, err))
        return self.said[-1]

    def queue(self) -> list[str]:
        """The ids of this user's jobs and array tasks that are not over."""
        lines = self.trial.cluster.out("squeue", "-h", "-r", f"--user={self.account.name}", "-o", "%i")
        return lines.split()

    def waves(self, uid: int | None = None) -> list[Path]:
        """The folders of the waves that a user queued; by default this one."""
        uid = self.account.uid if uid is None else uid
        records = self.trial.folder.glob("results/store/waves/*/*/wave.json")
        return [path.parent for path in records if json.loads(path.read_text())["uid"] == uid]

    def check(self) -> None:
        """At the end: no command broke, the other's waves were never cancelled, and this user sees what they see."""
        broken = [each for each in self.said if each.returncode not in (0, 1, 3) or "unexpected" in each.stderr]
        assert not broken, broken  # 1: what cannot be made has failed; 3: the store is read-only, Slurm is away
        assert not [stop for wave in self.waves(0) for stop in wave.glob("stops/*")], "another's wave was cancelled"
        mine, theirs = (json.loads(each.run("status", "--json").stdout)["cells"] for each in (self, self.trial))
        assert mine == theirs
