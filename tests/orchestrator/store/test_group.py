"""A store that a group shares: who may read and write what is made in it, whatever the umask."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.backends.sharing import group_of, own_folder, share
from orchestrator.backends.site import Site
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.errors import BadInput
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.store.folders import closed_to_others, exposed, umask
from orchestrator.store.store import Store


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_in_a_groups_folder_the_group_reads_and_writes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tmp_path.chmod(0o2770)
    store.create("records/score/x.json", b"{}")
    os.close(store.open_log("y.log"))
    assert [mode(tmp_path / name) for name in ("records", "records/score", "logs")] == [0o2770] * 3
    assert mode(tmp_path / "records/score/x.json") == 0o640
    assert mode(tmp_path / "logs/y.log") == 0o660
    alone = tmp_path / "alone"
    alone.mkdir()
    alone.chmod(0o700)
    Store(str(alone)).create("records/score/x.json", b"{}")
    assert (mode(alone / "records"), mode(alone / "records/score/x.json")) == (0o700, 0o600)


def a_site(group: str | None) -> Site:
    return Site("s", "site.yaml", "slurm", SlurmSettings(group=group))


def test_group_of_the_site_gives_the_store_to_it(tmp_path: Path) -> None:
    name = grp.getgrgid(os.getegid()).gr_name
    store = Store(str(tmp_path / "store"))
    store.open()
    store.create("records/score/x.json", b"{}")
    share(store, a_site(name))
    assert umask() & 0o070 == 0
    assert mode(store.root) == 0o3770
    assert mode(store.path("records/score")) == 0o2770
    assert mode(store.path("records/score/x.json")) == 0o640
    own = own_folder(Path(store.root), "me")
    assert own == Path(store.path("cluster/me"))
    assert mode(own.parent) == 0o3770
    os.umask(0o002)
    code = snapshot(own, group=group_of(a_site(name)))
    assert [str(path) for path in (code, *code.rglob("*")) if mode(path) & 0o022] == []
    assert own_folder(tmp_path, "me") == tmp_path / "cluster"  # a store of one's own


def test_a_group_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"site.yaml: group: there is no group 'nobodys_group' on this machine"):
        group_of(a_site("nobodys_group"))
    assert group_of(a_site(None)) is None


@dataclass(frozen=True)
class Owned:
    """An `os.lstat` of a folder that belongs to another member of group 77."""

    about: os.stat_result

    def __getattr__(self, name: str) -> int:
        return {"st_uid": 4321, "st_gid": 77}.get(name, getattr(self.about, name))


def test_a_folder_of_a_trusted_group_may_be_another_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab" / "mine").mkdir(parents=True)
    real, lab = os.lstat, tmp_path / "lab"
    monkeypatch.setattr(os, "lstat", lambda path: Owned(real(path)) if str(path) == str(lab) else real(path))
    assert exposed(lab / "mine") == f"{lab} is not yours (its owner is user 4321)"
    assert exposed(lab / "mine", 77) == ""
    assert exposed(lab / "mine", 78) != ""
    assert exposed(lab, 77) != ""  # the folder itself must be one's own
    lab.chmod(0o2770)
    assert exposed(lab / "mine", 77) == f"others can write to {lab}"  # any member could replace what is in it
    lab.chmod(0o3770)
    assert exposed(lab / "mine", 77) == ""


def test_what_jobs_trust_is_closed_to_others(tmp_path: Path) -> None:
    os.umask(0o002)
    with closed_to_others():
        (tmp_path / "file").touch()
    assert (mode(tmp_path / "file"), umask()) == (0o644, 0o002)
