"""Published numbers next to ours: checked strictly, shown with their protocol, confirmed or not, never ranked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.errors import BadInput
from orchestrator.report.comparisons import compare
from orchestrator.report.content import report_content
from orchestrator.report.figures.every import colours_of
from orchestrator.report.html import page
from orchestrator.report.markdown import text
from orchestrator.report.results import collect
from orchestrator.report.terminal import comparison
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import TINY, Ran, run_here

PAPER = """\
source: Somebody, table 3
protocol: unknown
count: 40
tolerance: {fid: 1e6}
rows:
  - {arm: plain, fid: 5.5, precision: 0.5}
  - {arm: nag, params: {nag.scale: 2}, fid: 4.5, tolerance: {fid: 1e-9}}
  - {arm: nag, fid: 3.5}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("papers")
    (found / "paper.yaml").write_text(PAPER)
    (found / "sweep.yaml").write_text(TINY.replace("seed: {grid: [0, 1]}", "seed: 0") + "published: paper.yaml\n")
    return found


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    return run_here(folder / "sweep.yaml", folder / "store")


@pytest.fixture
def message(folder: Path, tmp_path: Path) -> Callable[[str, str], str]:
    def read(old: str, new: str) -> str:
        assert old in PAPER
        (tmp_path / "paper.yaml").write_text(PAPER.replace(old, new))
        (tmp_path / "sweep.yaml").write_text((folder / "sweep.yaml").read_text())
        with pytest.raises(BadInput) as caught:
            read_sweep(tmp_path / "sweep.yaml")
        return str(caught.value).replace(f"{tmp_path}/", "")

    return read


def published(ran: Ran) -> list[dict[str, Any]]:
    return ran.document()["published"]


def test_each_number_stands_beside_ours(ran: Ran) -> None:
    fid = {
        str(c["params"].get("nag.scale")): c["metrics"]["fid"]["value"]
        for c in ran.document()["cells"]
        if c["arm"] != "cfg"
    }
    rows = published(ran)
    assert [(r["arm"], r["metric"], r["published"], r["count"]) for r in rows] == [
        ("plain", "fid", 5.5, 40), ("plain", "precision", 0.5, 40), ("nag", "fid", 4.5, 40), ("nag", "fid", 3.5, 40)
    ]  # fmt: skip
    assert [rows[0]["value"], rows[2]["value"]] == pytest.approx([fid["None"], fid["2.0"]])
    assert rows[3]["value"] == pytest.approx(min(fid["1.0"], fid["2.0"])), "the best of the settings that fit"
    assert [r["settings"] for r in rows] == [1, 1, 1, 2]
    assert [r["within"] for r in rows] == [True, None, False, True]
    assert {r["source"] for r in rows} == {"Somebody, table 3"}


def test_the_pages_and_the_terminal_show_them(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    comparisons = compare(results, ran.store)
    made = report_content(results, comparisons, ran.store, "nagbench run x")
    assert made.published is not None
    assert [row.cells[4].text for row in made.published.rows] == ["5.50", "0.500", "4.50", "3.50"]
    assert [row.cells[5].text for row in made.published.rows] == [
        "confirmed within 1e+06", "", "not confirmed: off by more than 1e-09", "confirmed within 1e+06"
    ]  # fmt: skip
    for told in (text(made), page(made, colours_of(results))):
        assert "Published numbers beside ours" in told
        assert "Somebody, table 3" in told
        assert "protocol unknown" in told
    console = Console(record=True, width=200)
    for piece in comparison(results, comparisons):
        console.print(piece)
    shown = console.export_text()
    assert re.search(r"nag +nag.scale 2 .* 4\.50 +not confirmed: off by more than 1e-09", shown)
    assert "protocol: unknown. Not ranked with ours." in shown


def test_they_are_no_cells(ran: Ran, tmp_path: Path) -> None:
    """Cells, comparisons and answer are the same without them."""
    (tmp_path / "sweep.yaml").write_text(ran.plan.sweep.text.replace("published: paper.yaml\n", ""))
    plain = run_here(tmp_path / "sweep.yaml", ran.store.root)
    assert plain.backend is None
    with_, without = ran.document(), plain.document()
    assert "published" not in without
    assert {key: with_[key] for key in without} == without
    assert plain.plan.goals == ran.plan.goals


def test_another_count_confirms_nothing(ran: Ran, tmp_path: Path) -> None:
    """No value extrapolated in N is shown either: that is for differences."""
    (tmp_path / "paper.yaml").write_text(PAPER.replace("count: 40", "count: 50000"))
    (tmp_path / "sweep.yaml").write_text(ran.plan.sweep.text)
    rows = published(run_here(tmp_path / "sweep.yaml", ran.store.root))
    assert [r["within"] for r in rows] == [None] * 4
    assert not any("extrapolated" in row for row in rows)


def test_smoke_shows_what_is_left(folder: Path, tmp_path: Path) -> None:
    sweep = read_sweep(folder / "sweep.yaml", smoke=True)
    assert sweep.paper is not None
    assert len(sweep.paper.rows) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count: 40\n", "", "paper.yaml:1: 'count' is missing. It needs source, protocol, count and rows."),
        ("count: 40", "count: many", "paper.yaml:3: count: expected a number."),
        ("count: 40", "count: 0", "paper.yaml:3: count: expected a whole number of at least 1, got 0."),
        ("protocol", "protocoll", "paper.yaml:2: unknown key 'protocoll'. Did you mean 'protocol'?"),
        ("arm: plain", "arm: plane", "paper.yaml:6: rows[0].arm: unknown arm 'plane'. Did you mean 'plain'?"),
        ("precision: 0.5", "precison: 0.5", "paper.yaml:6: rows[0].precison: unknown metric 'precison'. Did you mean"),
        ("fid: 5.5, precision: 0.5", "fid: low", "paper.yaml:6: rows[0].fid: expected a number."),
        (", fid: 3.5", "", "paper.yaml:8: rows[2]: it has no value, such as fid: 2.06."),
        ("nag.scale: 2", "nag.scale: 3", "paper.yaml:7: rows[1]: no cell of arm 'nag' has {'nag.scale': 3}."),
        ("arm: plain, ", "", "paper.yaml:6: rows[0]: 'arm' is missing"),
        (
            PAPER,
            "",
            "sweep.yaml:14: published: paper.yaml: the file is empty. It needs source, protocol, count and rows.",
        ),
    ],
)
def test_bad_input(message: Callable[[str, str], str], old: str, new: str, words: str) -> None:
    assert message(old, new).startswith(words)


def test_a_file_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text((folder / "sweep.yaml").read_text())
    with pytest.raises(BadInput, match=r"paper\.yaml: there is no such file"):
        read_sweep(tmp_path / "sweep.yaml")
