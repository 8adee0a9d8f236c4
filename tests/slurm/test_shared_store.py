"""Two users on one store: whose a job is, and who may cancel it. Nothing runs here: all partitions are closed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.backends.slurm.waves import waves
from orchestrator.commands.app import app
from orchestrator.store.store import Store
from tests.slurm.accounts import Account, accounts
from tests.slurm.cluster import Cluster, wait
from tests.slurm.running import Place


@dataclass
class Member:
    """A member of a group, with a folder of their own, who works on the group's store."""

    account: Account
    place: Place
    store: Path

    def __call__(self, command: str, *options: str) -> tuple[int, str]:
        words = [*self.place.command(command, *options), "--store", str(self.store)]

        def body() -> int:
            with self.place.inside():
                result = CliRunner().invoke(app, words)
                os.write(1, f"{result.output}{result.exception or ''}".encode())
                return result.exit_code

        return self.account.call(body, self.place.folder / "output")

    def queue(self) -> dict[str, str]:
        """The jobs of this user: id and state."""
        lines = self.place.cluster.out("squeue", "-h", "-r", f"--user={self.account.name}", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)


@pytest.fixture
def members(slurm: Cluster) -> Iterator[tuple[str, list[Member]]]:
    """Two members of a new group, and a store that does not exist yet."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    folder.chmod(0o755)
    try:
        with accounts(2) as (group, both):
            (folder / "lab").mkdir()
            (folder / "lab").chmod(0o1777)
            made = []
            for account in both:
                slurm.add_user(account.name)
                place = Place(folder / account.name, slurm)
                place.closed(more=f"group: {group}\n")
                for path in (place.folder, *place.folder.iterdir()):
                    os.chown(path, account.uid, account.gid)
                made.append(Member(account, place, folder / "lab" / "store"))
            yield group, made
            for member in made:
                slurm.run("scancel", f"--user={member.account.name}")
            slurm.wait_idle(60)
            for member in made:
                slurm.run("sacctmgr", "-i", "delete", "user", member.account.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_two_users_of_one_store(members: tuple[str, list[Member]]) -> None:
    """Each reads, resumes and cancels only their own jobs."""
    _, (one, two) = members
    code, said = one("submit")
    assert code == 0, said
    theirs = one.queue()
    assert len(theirs) == 5
    code, said = two("submit")
    assert code == 0, said
    assert f"5 array tasks were queued by {one.account.name}; waiting for them" in said
    assert (two.queue(), one.queue()) == ({}, theirs)

    files = [path for path in one.store.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert two.account.unreadable(files) == []
    own = [path for path in (one.store / "cluster" / one.account.name).rglob("*")]
    assert [str(p) for p in own if not p.is_symlink() and p.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)] == []
    shared = [p for p in one.store.rglob("*") if p.is_dir() and p.relative_to(one.store).parts[0] != "cluster"]
    assert [str(p) for p in shared if not p.stat().st_mode & stat.S_IWGRP] == []

    code, said = two("status", "--json")
    assert code == 0, said
    told = json.loads(said)
    assert sum(states.pop("pending") for states in told["queue"].values()) == 5
    assert not any(told["queue"].values())
    assert any(f"queued by {one.account.name}" in note for note in told["queue_notes"])

    code, said = two("cancel")
    assert code == 0, said
    assert "Ended: 0 array tasks." in said
    assert f"5 array tasks were queued by {one.account.name}, who alone can cancel them" in said
    assert one.queue() == theirs

    code, said = one("cancel")
    assert code == 0, said
    assert "Ended: 5 array tasks." in said
    code, said = two("submit")  # goes on with the sweep
    assert code == 0, said
    assert (one.queue(), len(two.queue())) == ({}, 5)
    record = waves(Store(str(two.store)), "small")[-1].record
    assert (record["uid"], record["owner"]) == (two.account.uid, two.account.name)
    assert record["cluster"] == f"test{two.place.cluster.ports.slurmctld}"
    code, said = one("cancel")
    assert "Ended: 0 array tasks." in said
    assert len(two.queue()) == 5


def test_cancel_in_a_store_that_cannot_be_written(members: tuple[str, list[Member]]) -> None:
    _, (one, _) = members
    assert one("submit")[0] == 0
    folders = [one.store, *(path for path in one.store.rglob("*") if path.is_dir())]
    for folder in folders:
        os.chown(folder, 0, 0)
        folder.chmod(0o555)
    code, said = one("cancel")
    assert code == 0, said
    assert "cannot be written: Permission denied" in said
    assert "Jobs are cancelled all the same" in said
    wait(lambda: not one.queue(), "nothing of theirs is in the queue")
