"""Accounts of the system for tests, and a process of this test that becomes one of them.

The interpreter and the code may be where only root can look (root's home, a CI machine's folder). So a child of this
process becomes the user and keeps one right of root's: to read any file. It cannot write what the user cannot write,
and what it starts (sbatch, squeue, cat) has no right of root's at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

READ_ALL = 1 << 2  # CAP_DAC_READ_SEARCH
VERSION = 0x20080522  # of the structure for capset
KEEPCAPS = 8


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    def call(self, body: Callable[[], int], output: Path) -> tuple[int, str]:
        """Call `body` as this user, in a child. Returns its exit code and what it wrote."""
        output.touch()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                file = os.open(output, os.O_WRONLY | os.O_TRUNC)
                os.dup2(file, 1)
                os.dup2(file, 2)
                self._become()
                code = body()
            finally:
                if code == 99:
                    os.write(2, traceback.format_exc().encode())
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), output.read_text()

    def _become(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(KEEPCAPS, 1, 0, 0, 0)
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)
        header = (ctypes.c_uint32 * 2)(VERSION, 0)
        rights = (ctypes.c_uint32 * 6)(READ_ALL, READ_ALL, 0, 0, 0, 0)  # effective, permitted, inheritable
        if libc.capset(ctypes.byref(header), ctypes.byref(rights)):
            raise OSError(ctypes.get_errno(), "capset")
        os.umask(0o022)
        os.environ |= {"USER": self.name, "LOGNAME": self.name, "HOME": "/nonexistent"}

    def unreadable(self, paths: Iterable[Path]) -> list[str]:
        """What a program that has no right of root's says of those it cannot read."""
        who = {"user": self.uid, "group": self.gid, "extra_groups": self.groups}
        done = subprocess.run(["cat", *map(str, paths)], capture_output=True, check=False, **who)  # type: ignore[call-overload]
        return str(done.stderr.decode()).splitlines()


@contextlib.contextmanager
def accounts(count: int) -> Iterator[tuple[str, list[Account]]]:
    """New accounts of this system that are in a group of their own; its name, and they. All are removed again."""
    tag = f"nb{uuid.uuid4().hex[:6]}"
    names = [f"{tag}{letter}" for letter in "abcdef"[:count]]
    with contextlib.ExitStack() as stack:
        _run("groupadd", tag)
        stack.callback(_run, "groupdel", tag, check=False)
        for name in names:
            _run("useradd", "--no-create-home", "--user-group", "--groups", tag, "--shell", "/bin/sh", name)
            stack.callback(_run, "userdel", name, check=False)
        found = [pwd.getpwnam(name) for name in names]
        yield tag, [Account(p.pw_name, p.pw_uid, p.pw_gid, tuple(os.getgrouplist(p.pw_name, p.pw_gid))) for p in found]


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
