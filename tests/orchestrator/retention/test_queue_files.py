"""`gc` of waves that were closed long ago, and of the files of their jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestrator.backends.slurm.ledger import gpu_hours
from orchestrator.backends.slurm.waves import Wave, close_wave, create_wave, waves
from orchestrator.retention.garbage import garbage, remove
from orchestrator.retention.queue_files import OLD_S
from orchestrator.store.store import Store

CODE = "cluster/code/" + "a" * 32 + "/nag/x.py"


def a_wave(store: Store, sweep: str, closed: bool) -> Wave:
    wave = create_wave(store, sweep, {"arrays": 1, "time": 1.0, "folder": store.path("cluster"), "stem": "x"})
    store.create_record(wave.mark("starts", 0, 0, 0), {"job": "7", "time": 1.0, "started": 1.0, "gpus": 2})
    store.create_record(wave.mark("ends", 0, 0, 0), {"job": "7", "time": 3601.0})
    store.create(f"cluster/nb.me.{sweep}.a-{wave.number}.0/7_0_0_log.out", b"what it said")
    store.create(f"cluster/me/nb.me.{sweep}.b-{wave.number}.reconcile/8_submitted.pkl", b"x")
    if closed:
        close_wave(store, wave)
    return wave


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    made.open()
    a_wave(made, "over", closed=True)
    a_wave(made, "under_way", closed=True)
    a_wave(made, "under_way", closed=False)
    made.create(CODE, b"pass")
    return made


def later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for path in Path(store.root).rglob("*"):
        os.utime(path, (now - OLD_S - 60, now - OLD_S - 60))
    monkeypatch.setattr(time, "time", lambda: now + OLD_S + 60)


def test_only_what_is_old_and_over_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert garbage(store) == []
    later(store, monkeypatch)
    used = gpu_hours(store, "over")
    assert used == pytest.approx(2.0)
    found = garbage(store)
    assert {each.file.name.rpartition("/")[0] for each in found} == {
        "waves/over/000001/starts",
        "waves/over/000001/ends",
        "waves/under_way/000001/starts",
        "waves/under_way/000001/ends",
        "cluster/nb.me.over.a-1.0",
        "cluster/me/nb.me.over.b-1.reconcile",
    }
    assert {each.what for each in found} == {"waves", "cluster"}
    remove(store, found)
    assert gpu_hours(store, "over") == used
    assert [wave.number for wave in waves(store, "under_way")] == [2]
    assert create_wave(store, "over", {"arrays": 0, "time": 1.0, "folder": "x"}).number == 2
    assert garbage(store) == []
    assert store.exists(CODE)  # the open wave may run it


def test_code_that_no_job_can_run_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    later(store, monkeypatch)
    for wave in waves(store, "under_way"):
        store.create_record(f"{wave.folder}/closed.json", {"gpu_seconds": 0.0, "time": time.time()})
    names = {each.file.name for each in garbage(store)}
    assert CODE in names
    assert "waves/under_way/000002/starts/000-000000-000.json" not in names  # it was closed just now


def test_what_another_user_owns_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    later(store, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert {each.what for each in garbage(store)} == {"waves"}
