"""One worker a GPU. Cards are only names here: a worker without a GPU behind its card computes on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.backends import cards as cards_of
from orchestrator.backends import local_doctor
from orchestrator.backends.cards import VISIBLE, cards, default_workers, least_used, visible


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
