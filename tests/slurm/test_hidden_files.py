"""One sweep on a cluster whose file system hides new files for a while, as attribute caches of NFS and Lustre do; with
two processes on a GPU, and with what sites ask for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends.site import read_site
from orchestrator.commands import efficiency as efficiency_command  # noqa: F401  (adds itself to the app)
from tests.slurm.cluster import Cluster, wait
from tests.slurm.disturbances import Hiding
from tests.slurm.running import Place


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path / "me", slurm)
    slurm.run("scancel", "--user=root")


ASKED = """\
exclude: n2
nice: 7
comment: lab words
memory: per_cpu
extra: [--mail-type=NONE, --hint=nomultithread]
"""


def test_what_is_hidden_for_a_while_is_made_once(place: Place, tmp_path: Path) -> None:
    shared = ("sample: {minutes: 6, memory_gb: 2, cpus: 1}", "sample: {minutes: 6, memory_gb: 4, cpus: 2, per_gpu: 2}")
    place.site("visible_after_s: 3", "visible_after_s: 60", "reconcile: manual", "reconcile: job", *shared, more=ASKED)
    hiding = Hiding(Path(place.store.root), tmp_path / "aside")
    hiding.start()
    try:
        done = place("submit")
        assert done.exit_code == 0, done.output
        shown = place.cluster.out("scontrol", "--oneliner", "show", "job", next(iter(place.queue())))
        for words in ("ExcNodeList=n2 ", "Nice=7 ", "Comment=lab words ", "MinMemoryCPU="):
            assert words in shown
        wait(lambda: not place.queue(), "the sweep is over", 480, 0.2)
    finally:
        hiding.ended.set()
        hiding.join(60)
    assert len(hiding.hid) >= 3
    made = re.findall(r" made (\w+ \w+ [\d ]*)in ", place.logs())
    assert len(made) == len(set(made))
    assert not list(place.folder.glob("results/store/attempts/*/*"))
    assert not list(place.folder.glob("results/store/quarantine/**/*"))
    assert place.metrics() == place.local_metrics(), place.logs()
    assert {mark["host"] for mark in place.marks("starts")} == {"n1"}
    (lanes,) = [log for log in place.folder.rglob("*_log.out") if " made sample " in log.read_text()]
    assert lanes.read_text().count(" made sample ") == 4
    efficiency(place)


def efficiency(place: Place) -> None:
    """What was requested, what was used, and a site file that would have been right."""
    told = json.loads(place("efficiency", "--json").output)
    stages = {use["stage"]: use for use in told["stages"]}
    assert stages.keys() == {"train", "reference", "sample", "score"}
    train, sample = stages["train"], stages["sample"]
    assert (train["network"], sample["network"], sample["requested"]["per_gpu"]) == ("sit", "sit", 2)
    assert train["requested"]["memory_gb"] == 2
    for use in stages.values():
        assert 0.05 < use["used"]["host_gb"] < 4
        assert 0 < use["used"]["minutes"] < use["requested"]["minutes"]
        assert use["used"]["cpus"] > 0
    assert told["unknown"] is None
    (place.folder / "right.yaml").write_text("\n".join(["kind: slurm", "target_minutes: 5", *told["site"]]))
    right = read_site(str(place.folder / "right.yaml")).settings
    assert right.resources("sample", "sit").minutes >= 10
    shown = place("efficiency").output
    assert re.search(r"sample +sit +1 +\d+\.\d of 6 +\d+\.\d of 4 +\d+\.\d of 2", shown), shown
    assert "These lines of a site file would have been right:" in shown
