"""Leases: held against others, free again once the holder has ended."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from orchestrator.tasks import lease as module
from orchestrator.tasks.context import HeldElsewhere
from orchestrator.tasks.lease import lease
from tests.slurm.disturbances import mounted

DIGEST = "0" * 32


def test_a_holder_that_was_killed_holds_nothing_even_before_its_parent_knows(tmp_path: Path) -> None:
    """A zombie: in a container without an init process it stays in the process table."""
    store = Store(str(tmp_path / "store"))
    store.open()
    with subprocess.Popen(["sleep", "60"]) as holder:
        born = module._born(holder.pid)
        record = {"until": time.time() + 100, "host": platform.node(), "pid": holder.pid, "born": born}
        store.create_record(f"leases/{DIGEST}/000001.json", record)
        with pytest.raises(HeldElsewhere), lease(store, DIGEST):
            pass
        holder.kill()
        while ") Z" not in Path(f"/proc/{holder.pid}/stat").read_text():
            time.sleep(0.01)
        with lease(store, DIGEST):
            assert store.list(f"leases/{DIGEST}") == ["000001.json", "000002.json"]
    assert store.list(f"leases/{DIGEST}") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_store_that_is_read_only_at_the_end_costs_nothing(tmp_path: Path) -> None:
    """What was done within the lease is done. Its file stays behind, and its owner is known to hold nothing."""
    with contextlib.ExitStack() as stack:
        try:
            remount = stack.enter_context(mounted(tmp_path / "disk", megabytes=4))
        except subprocess.CalledProcessError:
            pytest.skip("root may not mount here")
        store = Store(str(tmp_path / "disk" / "store"))
        store.open()
        with lease(store, DIGEST):
            remount("ro")
        assert store.list(f"leases/{DIGEST}") == ["000001.json"]
        remount("rw")
        with lease(store, DIGEST):
            pass
        assert store.list(f"leases/{DIGEST}") == []
