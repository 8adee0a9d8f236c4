"""One worker a GPU. Cards are only names here: a worker without a GPU behind its card computes on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.backends import cards as cards_of
from orchestrator.backends import local_doctor, local_site
from orchestrator.backends.campaign import Campaign
from orchestrator.backends.cards import VISIBLE, cards, default_workers, least_used, visible
from orchestrator.backends.local import Local, WorkerProcess
from orchestrator.backends.local_site import LocalSite
from orchestrator.backends.site import read_site
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator import nursery
from tests.orchestrator.conftest import Quiet, Ran, metrics


@pytest.fixture(autouse=True)
def _built_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_of, "_torch_has_cuda", lambda: True)


@pytest.mark.parametrize(
    ("device", "said", "wanted"),
    [
        ("auto", "0,1", ("0", "1")),
        ("cuda", " 3 , GPU-ab ", ("3", "GPU-ab")),
        ("cuda:1", "4,7", ("7",)),
        ("cuda:2", "4,7", ()),
        ("auto", "", ()),
        ("auto", "2,-1,3", ("2",)),
        ("cpu", "0,1", ()),
        ("mps", "0,1", ()),
    ],
)
def test_cards_are_those_that_the_environment_names(device: str, said: str, wanted: tuple[str, ...]) -> None:
    assert cards(device, {VISIBLE: said}) == wanted


def test_else_those_that_the_machine_has(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert cards("auto", {}, str(tmp_path)) == ("0", "1", "2")
    assert cards("auto", {}, str(tmp_path / "none")) == ()


def test_a_torch_for_cpus_alone_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_of, "_torch_has_cuda", lambda: False)
    monkeypatch.setenv(VISIBLE, "0,1")
    assert cards("auto") == ()
    assert default_workers("auto") == len(os.sched_getaffinity(0))


def test_workers_are_spread_over_cards() -> None:
    every, used = ("4", "5", "7"), list[str]()
    for _ in range(7):
        used.append(least_used(every, used))
    assert used == ["4", "5", "7", "4", "5", "7", "4"]
    assert [visible(card, every, 1) for card in every] == ["4", "5", "7"]
    assert [visible(card, every, 2) for card in every] == ["4,5", "5,7", "7,4"], "trainings by two processes"


def test_doctor_says_which_worker_has_which_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,2")
    assert local_doctor._workers().detail == "2 by default: worker 1 on card 0, worker 2 on card 2"
    monkeypatch.setenv(VISIBLE, "")
    assert local_doctor._workers().detail.endswith("by default: one a core")


def test_workers_that_share_cards_make_the_bits_of_one(
    finished: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site of kind local with per_gpu: two workers on each of two cards (names only: they compute on the CPU)."""
    monkeypatch.setenv(VISIBLE, "4,7")
    assert default_workers("auto", 2) == 4
    (tmp_path / "site.yaml").write_text("kind: local\nper_gpu: 2\n")
    planned, store = plan(read_sweep(finished.plan.sweep.path)), Store(str(tmp_path / "store"))
    site = read_site(str(tmp_path / "site.yaml"))
    campaign = Campaign("s", store.url, site.path, "none", "r", 0.0)
    made: list[Local] = []
    used: list[str] = []

    class Noting(Local):
        def _start(self) -> WorkerProcess:
            started = super()._start()
            used.append(started.card)
            return started

    monkeypatch.setattr(local_site, "Local", Noting)

    def backend() -> Local:
        made.append(LocalSite(site).open(planned, store, campaign, print, lambda given: lambda index: None)())
        return made[0]

    with nursery.opened():
        engine.run(planned, store, backend, Quiet())
    assert made[0].workers == 4
    assert sorted(used[:4]) == ["4", "4", "7", "7"]
    assert metrics(document(collect(planned, store), store)) == metrics(finished.document())
