"""Two users at work on one sweep in a group's store: what one has begun and cancelled the other finishes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.accounts import accounts
from tests.slurm.cluster import Cluster
from tests.slurm.colleague import Colleague, open_to_all
from tests.slurm.configuration import Settings
from tests.slurm.conftest import up
from tests.slurm.faults import Trial, undisturbed

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def both() -> Iterator[Callable[[], tuple[Trial, Colleague]]]:
    with up(Settings()) as made, accounts(1) as (group, (account,)):
        made.add_user(account.name)
        base = undisturbed(made.folder / "base")
        folder = made.folder / "first"
        with open_to_all(made.folder / "open") as shown:
            trial = Trial(folder, made, base=base, trained=False, changes=("throttle: 1", "throttle: 2"))
            yield lambda: (trial, Colleague(account, group, trial, shown))


def at_work(cluster: Cluster, user: str) -> set[str]:
    return set(cluster.out("squeue", "-h", "-r", f"--user={user}", "-o", "%i").split())


def test_what_one_user_cancels_another_one_finishes(both: Callable[[], tuple[Trial, Colleague]]) -> None:
    trial, colleague = both()
    trial.says(pace=1)
    trial.submit()
    trial.wait_for(lambda: trial.blocks() >= 3, "some blocks are made")
    ours = at_work(trial.cluster, "root")
    said = colleague.run("cancel")
    assert (said.returncode, "Ended: 0 array tasks." in said.stdout) == (0, True), said
    assert at_work(trial.cluster, "root") <= ours
    said = colleague.run("submit")  # waits for what the other has queued
    assert said.returncode == 0, said.stderr
    assert "were queued by root; waiting for them" in said.stderr
    assert colleague.queue() == []
    assert trial.run("cancel").returncode == 0
    assert trial.queue() == {}
    before = trial.blocks()
    trial.says(pace=0)
    said = colleague.run("submit")
    assert said.returncode == 0, said.stderr
    assert colleague.queue()
    trial.wait_for(lambda: not colleague.queue(), "nothing of theirs is queued", 240)
    said = colleague.run("status", "--json")
    cells = json.loads(said.stdout)["cells"]
    assert cells == {"total": 3, "done": 3, "failed": 0, "missing": 0}, said.stdout + trial.logs()[-3000:]
    assert trial.blocks() > before
    trial.done(lost=4)
    theirs = [
        path for path in Path(trial.store.root).rglob("blocks/*/*") if path.stat().st_uid == colleague.account.uid
    ]
    assert len(theirs) >= trial.blocks() - before
    assert not [stop for wave in colleague.waves(colleague.account.uid) for stop in wave.glob("stops/*")]
    assert [os.stat(path).st_uid for path in colleague.waves(0)] == [0]
