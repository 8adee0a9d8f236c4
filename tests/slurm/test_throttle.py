"""What submitit and Slurm do with an array of ours: never more at once than the throttle, and an array of one."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.settings import SlurmSettings, Stage, Stages
from tests.slurm.cluster import Cluster
from tests.slurm.running import ROOT, Place

SITE = SlurmSettings(partition="cpu", stages=Stages(score=Stage(minutes=5, memory_gb=1, cpus=1)), target_minutes=1)


def stamp(folder: str, index: int) -> None:
    """The work of an array task of these tests: it writes when it started and ended."""
    began = time.time()
    time.sleep(0.5)
    (Path(folder) / f"{index}").write_text(f"{began} {time.time()}")


def test_the_throttle_is_obeyed_and_an_array_of_one_is_none(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm)
    asked = SITE.resources("score")
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    with place.inside():
        one = queue(SITE, tmp_path / "f1", ROOT, "nb.one", asked, functools.partial(stamp, str(tmp_path / "one")), 1)
        work = functools.partial(stamp, str(tmp_path / "many"))
        many = queue(SITE, tmp_path / "f6", ROOT, "nb.many", asked, work, 6, after=[one], throttle=2)
        ids = {row.id for row in Commands().queue() if row.name in ("nb.one", "nb.many")}
    assert ids == {one, *(f"{many}_{index}" for index in range(6))}
    slurm.wait_idle(100)
    times = {int(path.name): tuple(map(float, path.read_text().split())) for path in (tmp_path / "many").iterdir()}
    assert sorted(times) == list(range(6))
    assert max(sum(b <= at < e for b, e in times.values()) for at, _ in times.values()) <= 2
    (first,) = ([*map(float, path.read_text().split())] for path in (tmp_path / "one").iterdir())
    assert min(began for began, _ in times.values()) >= first[1]
