"""Report pages and figures show all results, escaped, and the same bytes each time."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.comparisons import compare
from orchestrator.report.document import document
from orchestrator.report.estimates import chosen, estimate
from orchestrator.report.figures.curves import panels_of
from orchestrator.report.formatting import difference_text, value_text
from orchestrator.report.results import Results
from orchestrator.report.write import write_report
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, changed
from tests.orchestrator.synthetic import MEASURED, SWEEP, made

COMMAND = "nagbench report sweeps/made.yaml"
ONE_SEED = SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0")
ONE_SAMPLER = MEASURED.replace(
    "{grid: [{name: euler, steps: 25}, {name: heun, steps: 12}]}", "{name: euler, steps: 25}"
)


class Page(HTMLParser):
    """The text that a reader sees, the tags with their attributes, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", [], []
        self.feed(path.read_text())
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f" {data.strip()}" if data.strip() else ""


def written(results: Results, store: Store, folder: Path) -> Page:
    return Page(write_report(results, compare(results, store), store, folder, COMMAND))


def made_page(tmp_path: Path, text: str = SWEEP, **options: object) -> tuple[Results, Page]:
    results, store = made(tmp_path / "made", text, **options)  # type: ignore[arg-type]
    return results, written(results, store, tmp_path / "report")


class Made:
    """A report of synthetic results, written once. No test changes it."""

    def __init__(self, folder: Path, text: str = SWEEP) -> None:
        self.results, self.store = made(folder / "made", text)
        self.folder = folder / "report"
        self.page = written(self.results, self.store, self.folder)
        self.source = (self.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("standard"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With noise shift."""
    return Made(tmp_path_factory.mktemp("measured"), ONE_SAMPLER)


def test_a_real_sweep_from_its_store(finished: Ran, tmp_path: Path) -> None:
    """Numbers in page and Markdown are those of the JSON document, and the samples are the stored ones."""
    from orchestrator.report.results import collect

    results = collect(finished.plan, finished.store)
    page = written(results, finished.store, tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    found = document(results, finished.store)
    for arm, group in chosen(results).items():
        known = estimate(group, "fid")
        assert known is not None
        cells = [cell for cell in found["cells"] if cell["digest"] in {one.digest for one in group.cells}]
        seeds = [cell["metrics"]["fid"]["value"] for cell in cells if cell["arm"] == arm]
        assert sorted(known.seeds) == sorted(seeds)
        assert value_text(float(np.mean(seeds))) in page.text
        assert value_text(float(np.mean(seeds))) in markdown
    for row in found["comparisons"]:
        if row["metric"] in ("fid", "fid_pixels", "fid_digits") and row["difference"] is not None:
            words = difference_text(row["difference"], row["low"], row["high"])
            assert words in page.text, row
    seconds = sum({cell["digest"]: cell["seconds"] for cell in found["cells"]}.values())
    assert f"{seconds:.1f} s of worker time" in page.text or f"{seconds / 60:.0f} min of worker time" in page.text
    picture_names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert "samples.svg" in picture_names
    assert {"precision_recall.svg", "fid_pixels_scale.svg"} & set(picture_names) or "fid_scale.svg" in picture_names


def test_every_number_of_the_arms_table_is_of_the_comparisons(standard: Made) -> None:
    rows = compare(standard.results, standard.store)
    assert len(rows) > 20
    for row in rows:
        if row.metric in ("fid", "fid_pixels") and row.difference is not None:
            assert difference_text(row.difference, row.low, row.high) in standard.page.text


def test_the_tables_are_there_for_latex(standard: Made) -> None:
    text = (standard.folder / "tables.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 5
    for row in compare(standard.results, standard.store):
        if row.metric == "fid" and row.arm == "cfg_nag" and row.difference is not None:
            assert difference_text(row.difference, row.low, row.high).replace("−", "$-$") in text


def test_cells_csv_is_exact(standard: Made) -> None:
    rows = list(csv.DictReader(io.StringIO((standard.folder / "cells.csv").read_text())))
    assert len(rows) == len(standard.results.cells)
    for row, cell in zip(rows, standard.results.cells, strict=True):
        assert (row["arm"], row["digest"], row["complete"]) == (cell.arm, cell.digest, "true")
        assert float(row["fid"]) == cell.value("fid")
        assert float(row["fid_low"]) == cell.value("fid", "low")
        assert row.get("nag.scale") == str(cell.params.get("nag.scale", ""))


def test_a_text_that_looks_like_a_formula_is_none_in_cells_csv(standard: Made) -> None:
    odd = ["=1+1", "+x", "-x", "@x", "\tx", "fine", "1=2"]
    cells = [
        dataclasses.replace(cell, params={"net.work": text}, reason="=2")
        for cell, text in zip(standard.results.cells, odd, strict=False)
    ]
    rows = list(csv.DictReader(io.StringIO(cells_csv(dataclasses.replace(standard.results, cells=cells)))))
    assert [row["net.work"] for row in rows] == [f"'{text}" for text in odd[:5]] + odd[5:]
    assert {row["reason"] for row in rows} == {"'=2"}
    assert [float(row["fid"]) for row in rows] == [cell.value("fid") for cell in cells]


def test_nag_winning_and_losing_are_said_alike(tmp_path: Path) -> None:
    _, wins = made_page(tmp_path / "wins", nag_gain=1.6)
    _, loses = made_page(tmp_path / "loses", nag_gain=-6.0)
    values = r"\([\d.]+ against [\d.]+; difference"
    assert re.search(
        rf"nag [\d.]+ came out better than plain in Fréchet distance \(digits\) {values} −[\d.]+ \[", wins.text
    )
    assert re.search(
        rf"nag [\d.]+ came out worse than plain in Fréchet distance \(digits\) {values} \+[\d.]+ \[", loses.text
    )


def test_beats_is_said_of_what_was_not_chosen(tmp_path: Path) -> None:
    """One setting against one baseline: a test. One of several, on either side: a choice on the same samples."""
    alone = changed(SWEEP, "{grid: [0.5, 1.0, 2.0, 3.0]}", "2.0", ", against: cfg}", "}")
    alone = changed(alone, "  cfg: {cfg: {scale: {grid: [1.25, 1.5, 2.0]}}}\n", "")
    _, page = made_page(tmp_path / "alone", text=alone)
    assert re.search(r"nag beats plain in Fréchet", page.text)
    assert "came out" not in page.text
    several = changed(alone, "  plain: {}", "  plain: {cfg: {scale: {grid: [2.25, 2.5]}}}")
    _, page = made_page(tmp_path / "several", text=several)
    assert re.search(r"nag came out better than plain [\d.]+ in Fréchet", page.text)
    assert "beats" not in page.text


def test_answer_is_two_sentences_with_their_limits(standard: Made) -> None:
    source, page = standard.source, standard.page
    begins = source.index('id="answer"')
    answer = source[begins : source.index('class="limits"', begins)]
    assert answer.count("<p>") == 2
    assert "chosen on the very samples that score it" in page.text
    assert "nag 2 is the best of 4 settings" in page.text or "nag 1 is the best of 4 settings" in page.text
    assert "95 % intervals (Student's t) over 3 training seeds" in page.text
    assert "Not at equal cost, in NFE a sample: cfg 1.5 needs 20 against 10" in page.text
    assert "selected, best of 4" in page.text


def test_one_seed_is_said_to_be_sampling_noise_only(tmp_path: Path) -> None:
    _, page = made_page(tmp_path, ONE_SEED)
    assert "Intervals: 95 % sampling noise of one training only" in page.text
    assert "Student's t" not in page.text


def test_partial_sweep_says_so_first(tmp_path: Path) -> None:
    results, store = made(tmp_path / "made", scored=lambda place: place % 5 != 2)
    results.cells[2].reason = "samples stopped being finite at step 3"
    page = written(results, store, tmp_path / "report")
    assert page.text.index("Partial: 22 of 27 cells done, 1 failed, 4 still to do") < page.text.index("came out better")
    assert "samples stopped being finite at step 3" in page.text
    assert "Not done yet (4)" in page.text
    assert "2 of 3 seeds" in page.text
    assert "Partial" in (tmp_path / "report" / "report.md").read_text()


def test_nothing_scored_is_a_report_too(tmp_path: Path) -> None:
    _, page = made_page(tmp_path, scored=lambda place: False)
    assert "Nothing is scored yet: 0 of 27 cells done" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}
    assert COMMAND in page.text


def test_sweep_that_only_samples(tmp_path: Path) -> None:
    text = SWEEP.replace("score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}\n", "")
    _, page = made_page(tmp_path, text)
    assert "no score section" in page.text
    assert 'id="samples"' in (tmp_path / "report" / "report.html").read_text()


def test_noise_shift_is_shown_where_it_is_measured(measured: Made, standard: Made) -> None:
    text = (measured.folder / "figures" / "noise_shift.svg").read_text()
    assert "euler, 25 steps" in text
    assert "g_phi's error" in text
    assert "less what it reads in true states" in measured.page.text
    assert (measured.folder / "figures" / "noise_shift_density.svg").exists()
    assert "oise shift" not in standard.page.text


def test_everything_from_the_sweep_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & <img src=x onerror=alert(2)> $x$ | `code` **bold**"
    results, store = made(tmp_path / "made")
    for cell in results.cells:
        cell.params = (
            {**cell.params, "network": evil if cell.params["cfg.scale"] == 1.5 else "sit"}
            if ("cfg.scale" in cell.params)
            else cell.params
        )
    results.cells[0].reason, results.cells[0].complete = f"failed: {evil}", False
    page = written(results, store, tmp_path / "report")
    source = (tmp_path / "report" / "report.html").read_text()
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert "<script" not in source
    assert evil in unescape(page.text)
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert not re.search(r"(?<!\\)\*\*bold", markdown)
    for path in (tmp_path / "report" / "figures").glob("*.svg"):
        ElementTree.parse(path)


def test_page_is_self_contained(measured: Made) -> None:
    source = measured.source
    assert not re.search(r"https?:|//[a-z]|@import|<link|<script|url\((?!#)", source)
    for _, attrs in measured.page.tags:
        for name in ("src", "href"):
            assert re.match(r"#|data:image/png;base64,", attrs.get(name) or "#")
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source))
    assert {one or other for one, other in used} <= set(ids)


def test_figures_are_svg_with_text_and_follow_the_theme_on_the_page(standard: Made) -> None:
    figures = sorted((standard.folder / "figures").glob("*.svg"))
    assert {path.stem for path in figures} >= {"differences", "fid_scale", "precision_recall", "fid_calls", "samples"}
    for path in figures:
        root = ElementTree.parse(path).getroot()
        words = "".join(root.itertext())
        assert "nag" in words
        assert "date" not in path.read_text().lower()
        assert "var(" not in path.read_text()
    source = standard.source
    svgs = re.findall(r"<svg .*?</svg>", source, re.DOTALL)
    assert len(svgs) == len(figures)
    for svg in svgs:
        assert not re.search(r"(fill|stroke): ?#", svg)  # no colour of its own: all are variables
    assert "@media screen and (prefers-color-scheme: dark)" in source
    assert "@media print" in source


def test_equal_results_give_equal_bytes(measured: Made, tmp_path: Path) -> None:
    written(measured.results, measured.store, tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(names) > 10
    for name in names:
        assert (measured.folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert not list(tmp_path.rglob(".*"))  # no temporary file stays


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    results, store = made(tmp_path / "made", scored=lambda place: False)
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "old.svg").write_text("<svg/>")
    (tmp_path / "report" / "report.html").write_text("old")
    page = written(results, store, tmp_path / "report")
    assert "Nothing is scored yet" in page.text
    assert not list((tmp_path / "report" / "figures").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    results, store = made(tmp_path / "made", ONE_SEED, samples=False)
    (tmp_path / "report").write_text("a file")
    with pytest.raises(EnvironmentProblem, match="report"):
        written(results, store, tmp_path / "report")


def test_latents_are_said_to_have_no_picture(tmp_path: Path) -> None:
    results, store = made(tmp_path / "made", ONE_SEED)
    for planned in results.plan.cells:
        arrays, record = store.read_arrays(name := block_name(planned.stream, 0))
        store.delete(name)
        store.create_arrays(name, {**arrays, "samples": arrays["samples"].astype(np.float16)}, record)
    page = written(results, store, tmp_path / "report")
    assert "latents of shape (1, 8, 8), which have no preview" in page.text


def test_what_is_measured_otherwise_is_neither_ranked_nor_drawn_together(tmp_path: Path) -> None:
    """A lower count reads higher: the arm with it shares no panel and no ranking, and the page says why."""
    results, store = made(tmp_path / "made", samples=False)
    for cell in results.of("nag"):
        cell.scores["fid"]["stamp"] = {**cell.scores["fid"]["stamp"], "count": 500}
        cell.scores["fid"]["score"]["value"] = 0.1
    page = written(results, store, tmp_path / "report")
    shown = panels_of(results, "fid")
    assert [sorted({curve.arm for curve in panel.curves}) for panel in shown] == [["cfg", "cfg_nag", "plain"], ["nag"]]
    assert "measured differently (count), so not compared" in page.text
    assert "only those measured alike are ranked" in page.text
    assert re.search(r"cfg_nag has the lowest bias-corrected Fréchet distance \(digits\): ", page.text)


def test_no_bias_corrected_difference_is_said(tmp_path: Path) -> None:
    results, store = made(tmp_path / "made", samples=False)
    for cell in results.cells:
        cell.scores["fid"]["score"] |= {"extrapolated": None, "reason": "N/2 = 50 is not above the dimension 64"}
    page = written(results, store, tmp_path / "report")
    assert re.search(r"nag \d against plain cannot be decided in Fréchet .* at N; N/2 = 50 is not above", page.text)


def test_a_crowd_of_arms_is_still_a_page(tmp_path: Path) -> None:
    arms = "".join(f"  nag_{k}: {{nag: {{scale: {1 + k / 10}}}}}\n" for k in range(25))
    results, page = made_page(tmp_path, ONE_SEED.split("  cfg:")[0] + arms, samples=False)
    assert len(results.plan.sweep.arms) == 26
    assert "22 more arms in the table" in page.text
    assert "Only the 5 best" in page.text


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, store = made(tmp_path / "made", samples=False)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EnvironmentProblem) as raised:
        write_report(results, compare(results, store), store, tmp_path / "report", COMMAND)
    assert str(raised.value) == f"report {tmp_path / 'report'} cannot be written: No space left on device."
