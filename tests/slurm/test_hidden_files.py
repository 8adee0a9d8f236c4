"""A shared file system that hides new files for a while, as attribute caches of NFS and Lustre do (item 12)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait
from tests.slurm.running import Place

HIDDEN_S = 5.0


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path / "me", slurm)
    slurm.run("scancel", "--user=root")


class Hiding(threading.Thread):
    """Renames the records of trainings and the first blocks as soon as they appear, and puts them back later."""

    def __init__(self, store: Path, aside: Path) -> None:
        super().__init__(daemon=True)
        self.store, self.aside, self.ended, self.hid = store, aside, threading.Event(), dict[Path, float]()
        aside.mkdir()

    def run(self) -> None:
        while not (self.ended.is_set() and all(place.exists() for place in self.hid)):
            for place in {*self.store.glob("records/train/*.json"), *self.store.glob("blocks/*/0*0.safetensors")}:
                if place not in self.hid:
                    place.rename(self._kept(place))
                    self.hid[place] = time.monotonic()
            for place, since in self.hid.items():
                if time.monotonic() - since > HIDDEN_S and self._kept(place).exists():
                    self._kept(place).rename(place)
            time.sleep(0.02)

    def _kept(self, place: Path) -> Path:
        return self.aside / f"{place.parent.name}-{place.name}"


def test_what_is_hidden_for_a_while_is_made_once(place: Place, tmp_path: Path) -> None:
    place.site("visible_after_s: 3", "visible_after_s: 60", "reconcile: manual", "reconcile: job")
    hiding = Hiding(Path(place.store.root), tmp_path / "aside")
    hiding.start()
    try:
        done = place("submit")
        assert done.exit_code == 0, done.output
        wait(lambda: not place.queue(), "the sweep is over", 240, 0.2)
    finally:
        hiding.ended.set()
        hiding.join(60)
    assert len(hiding.hid) >= 3
    made = re.findall(r" made (\w+ \w+ [\d ]*)in ", place.logs())
    assert len(made) == len(set(made))
    assert not list(place.folder.glob("results/store/attempts/*/*"))
    assert not list(place.folder.glob("results/store/quarantine/**/*"))
    assert place.metrics() == place.local_metrics(), place.logs()
