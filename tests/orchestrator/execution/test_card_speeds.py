"""Speeds of kinds of card: from the results of benchmarks.gpu to a forecast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.networks import PRECISIONS, flops, model
from nag.numerics import Precision
from orchestrator.execution import card_speeds
from orchestrator.execution.card_speeds import MEASURED, CardSpeed, entry, of_site, row_name
from orchestrator.execution.durations import SUSTAINED, evaluation_s

ROOT = Path(__file__).parents[3]


def results(**changed: Any) -> dict[str, Any]:
    """What `python -m benchmarks.gpu` writes, shortened."""
    row = {"network": "SiT-XL/2", "guidance": "CFG", "precision": "bf16", "batch": 128, "images/s": 3.0}
    rows = [{**row, "guidance": "plain", "images/s": 9.0}, {**row, "batch": 256, "images/s": 4.0}, row]
    rows.append({**row, "precision": "bf16 + compile", "images/s": 6.0})
    parts = [{"name": "truth", "rows": [{"check": "x"}]}, {"name": "sampling", "rows": rows}]
    known = {"card": "NVIDIA H100 80GB HBM3", "driver": "driver 570.1", "torch": "2.8.0", "date": "2026-12-01"}
    return {**known, "tiny": False, "parts": parts} | changed


def test_an_entry_has_the_fastest_row_of_each_precision() -> None:
    made = entry(results())
    assert (made.card, made.key) == ("NVIDIA H100 80GB HBM3", "h100")
    of_bf16 = made.of(Precision(dtype="bfloat16"))
    assert of_bf16 == pytest.approx(4.0 * 250 * 2 * flops(model("SiT-XL/2", False), (4, 32, 32)), rel=0.01)
    assert of_bf16 is not None
    assert made.of(Precision(dtype="bfloat16", compile=True)) == 1.5 * of_bf16
    assert made.of(Precision()) is made.of(Precision(tf32=True)) is None
    assert made.words() == "benchmarks.gpu on NVIDIA H100 80GB HBM3, torch 2.8.0, 2026-12-01"
    assert evaluation_s(None, of_bf16) == pytest.approx(1 / (4.0 * 250 * 2), rel=0.02)


def test_the_shipped_entry_is_of_the_published_results() -> None:
    published = json.loads((ROOT / "results" / "published" / "gpu" / "h100.json").read_text())
    made = entry(published)
    (shipped,) = (each for each in MEASURED if each.key == "h100")
    assert replace(shipped, operations={}) == replace(made, operations={})
    assert shipped.operations == pytest.approx(made.operations, rel=0.01)
    names = {row["precision"] for part in published["parts"] if part["name"] == "sampling" for row in part["rows"]}
    assert names <= {row_name(precision) for precision in PRECISIONS.values()}


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
        ({"parts": [{"name": "sampling", "rows": []}]}, "there is no row of SiT-XL/2 with CFG"),
        ({"card": "A card"}, "no short name of the card"),
    ],
)
def test_other_results_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        entry(results(**changed))


def test_a_site_names_its_card_in_gres_or_constraint() -> None:
    old, new, other = (CardSpeed("H100", "h100", {}, "2.8", day) for day in ("2026-01-01", "2026-02-01", "2026-01-15"))
    a100 = CardSpeed("A100", "a100", {}, "2.8", "2026-03-01")
    known = (old, new, other, a100)
    assert of_site("gpu:h100:{gpus}", None, known=known) == new
    assert of_site("gpu:{gpus}", "A100&ib", known=known) == a100
    assert of_site("gpu:{gpus}", None, known=known) is None
    assert of_site("gpu:gh100x:{gpus}", known=known) is None


def test_the_shipped_table_has_only_measured_entries() -> None:
    assert all(min(each.operations.values()) > 1e12 and each.date and each.torch for each in MEASURED)
    assert of_site("gpu:h100:{gpus}") is next((each for each in MEASURED if each.key == "h100"), None)
    assert evaluation_s(None) == pytest.approx(card_speeds.OPERATIONS / SUSTAINED, rel=0.02)
