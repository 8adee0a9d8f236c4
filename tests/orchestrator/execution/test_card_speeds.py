"""Speeds of kinds of card: from the results of benchmarks.gpu to a forecast."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu.networks import flops, model
from orchestrator.execution import card_speeds
from orchestrator.execution.card_speeds import MEASURED, CardSpeed, entry, of_site
from orchestrator.execution.durations import SUSTAINED, evaluation_s


def results(**changed: Any) -> dict[str, Any]:
    """What `python -m benchmarks.gpu` writes, shortened."""
    row = {"network": "SiT-XL/2", "guidance": "CFG", "precision": "bf16", "batch": 128, "images/s": 3.0}
    rows = [{**row, "guidance": "plain", "images/s": 9.0}, row, {**row, "batch": 256, "images/s": 4.0}]
    parts = [{"name": "truth", "rows": [{"check": "x"}]}, {"name": "sampling", "rows": rows}]
    known = {"card": "NVIDIA H100 80GB HBM3", "driver": "driver 570.1", "torch": "2.8.0", "date": "2026-12-01"}
    return {**known, "tiny": False, "parts": parts} | changed


def test_an_entry_is_the_fastest_row_of_its_card() -> None:
    made = entry(results())
    assert (made.card, made.key) == ("NVIDIA H100 80GB HBM3", "h100")
    assert made.operations == pytest.approx(4.0 * 250 * 2 * flops(model("SiT-XL/2", False), (4, 32, 32)), rel=0.01)
    assert made.words() == "benchmarks.gpu on NVIDIA H100 80GB HBM3, torch 2.8.0, 2026-12-01"
    assert evaluation_s(None, made.operations) == pytest.approx(1 / (4.0 * 250 * 2), rel=0.02)


@pytest.mark.parametrize(
    ("card", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("Tesla V100", "v100"),
    ],
)
def test_a_card_has_a_short_name(card: str, key: str) -> None:
    assert entry(results(card=card)).key == key


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tiny": True}, "not results of a GPU"),
        ({"driver": ""}, "not results of a GPU"),
        ({"parts": [{"name": "sampling", "rows": []}]}, "there is no row of SiT-XL/2, CFG, bf16"),
        ({"card": "A card"}, "no short name of the card"),
    ],
)
def test_other_results_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        entry(results(**changed))


def test_a_site_names_its_card_in_gres_or_constraint() -> None:
    old, new, other = (CardSpeed("H100", "h100", 1.0, "2.8", day) for day in ("2026-01-01", "2026-02-01", "2026-01-15"))
    a100 = CardSpeed("A100", "a100", 1.0, "2.8", "2026-03-01")
    known = (old, new, other, a100)
    assert of_site("gpu:h100:{gpus}", None, known=known) == new
    assert of_site("gpu:{gpus}", "A100&ib", known=known) == a100
    assert of_site("gpu:{gpus}", None, known=known) is None
    assert of_site("gpu:gh100x:{gpus}", known=known) is None


def test_the_shipped_table_has_only_measured_entries() -> None:
    assert all(each.operations > 1e12 and each.date and each.torch for each in MEASURED)
    assert of_site("gpu:h100:{gpus}") is next((each for each in MEASURED if each.key == "h100"), None)
    assert evaluation_s(None) == pytest.approx(card_speeds.OPERATIONS / SUSTAINED, rel=0.02)
