"""What a reader sees first: who won, by how much, how sure, at what price; and what a table does not repeat."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nag.registry import find
from orchestrator.plan.reported import reported
from orchestrator.report import html, markdown
from orchestrator.report.comparisons import compare
from orchestrator.report.content import report_content
from orchestrator.report.estimates import chosen, shown_estimate
from orchestrator.report.explanations import TITLE, explanations
from orchestrator.report.figures.calls import front
from orchestrator.report.figures.curves import by_guidance, panels_of
from orchestrator.report.figures.differences import _name, differences
from orchestrator.report.figures.every import colours_of, draw_all
from orchestrator.report.figures.real_images import class_names, real_images
from orchestrator.report.formatting import CUT
from orchestrator.report.headline import facts, headline
from orchestrator.report.matrix import matrix
from orchestrator.report.results import Results
from orchestrator.report.tables import best_settings, comparison_tables
from orchestrator.report.verdict_table import verdict_table
from orchestrator.report.verdicts import verdicts
from orchestrator.store.store import Store
from tests.orchestrator.conftest import changed
from tests.orchestrator.synthetic import MEASURED, SWEEP, made

SINGLE = SWEEP.split("arms:")[0] + "arms:\n  plain: {}\n  nag: {nag: {scale: 2.0}}\n"


def first(results: Results, store: Store) -> str:
    return headline(results, verdicts(results, compare(results, store)))


def test_the_headline_says_who_won_by_how_much_how_sure_at_what_price(tmp_path: Path) -> None:
    said = first(*made(tmp_path / "wins", SINGLE, samples=False))
    assert said == (
        "nag is better than plain: Fréchet distance (digits) 5.85 against 7.13, −1.27 ± 0.35 (18 % lower); p 0.004; "
        "price 20 NFE a sample against 10."
    )
    said = first(*made(tmp_path / "loses", SINGLE, nag_gain=-6.0, samples=False))
    assert said.startswith("Every arm is worse than its baseline. The nearest, nag against plain: ")
    margin = SINGLE.replace("arms:", "compare: {margin: 9}\narms:")
    assert "nag is alike plain, within the margin" in first(*made(tmp_path / "alike", margin, samples=False))
    agree = SINGLE.replace("arms:", "compare: {agree: [recall]}\narms:").replace("scale: 2.0", "scale: 8.0")
    mixed = first(*made(tmp_path / "mixed", agree, nag_gain=8.0, samples=False))
    assert "nag against plain is mixed, worse in recall: " in mixed


def test_what_was_chosen_on_its_own_samples_is_said_to_be_no_test(tmp_path: Path) -> None:
    text = SINGLE.replace("scale: 2.0", "scale: {grid: [1.0, 2.0]}")
    said = first(*made(tmp_path, text, samples=False))
    assert said.startswith(
        "Nothing is tested: settings were chosen on the samples that score them. nag 2 came out first: "
    )
    assert "p 0" not in said


def test_facts_name_data_network_n_seeds_and_samplers(tmp_path: Path) -> None:
    results, _ = made(tmp_path / "one", SINGLE, samples=False)
    assert facts(results) == (
        "data digits · network sit · N = 1,000 samples a cell · 3 training seeds · sampler euler, 10 steps"
    )
    results, _ = made(tmp_path / "two", MEASURED, samples=False)
    assert facts(results).endswith("3 training seeds · samplers euler, 25 steps and heun, 12 steps")


def test_several_samplers_give_a_matrix_of_all_verdicts(tmp_path: Path) -> None:
    results, store = made(tmp_path / "two", MEASURED, samples=False)
    ruled = verdicts(results, compare(results, store))
    table = matrix(results, ruled)
    assert table is not None
    assert [column.heading for column in table.columns] == ["arm", "against", "euler, 25 steps", "heun, 12 steps"]
    assert [row.cells[0].text for row in table.rows] == ["cfg", "nag", "cfg_nag"]
    assert {cell.detail for row in table.rows[:2] for cell in row.cells[2:]} == {"not tested"}
    assert [(cell.text, cell.verdict) for cell in table.rows[2].cells[2:]] == [("−0.80 ± 0.36", "better")] * 2
    one, store = made(tmp_path / "one", SINGLE, samples=False)
    assert matrix(one, verdicts(one, compare(one, store))) is None


def test_tasks_are_rows_of_the_matrix(tmp_path: Path) -> None:
    text = changed(MEASURED, "model: {name: sit, hidden: 16,", "model: {name: sit, hidden: {grid: [16, 24]},")
    results, store = made(tmp_path, text, samples=False)
    table = matrix(results, verdicts(results, compare(results, store)))
    assert table is not None
    assert [column.heading for column in table.columns][:3] == ["arm", "against", "task"]
    assert [(row.cells[0].text, row.cells[2].text) for row in table.rows[:2]] == [
        ("cfg", "hidden 16"),
        ("cfg", "hidden 24"),
    ]


@pytest.mark.parametrize(
    ("extractor", "suffix", "words"),
    [
        ("inception", "", "FID"),
        ("inception", "_inception", "FID"),
        ("digits", "", "Fréchet distance (digits)"),
        ("pixels", "_pixels", "Fréchet distance (pixels)"),
        ("dinov2", "", "FD-DINOv2"),
    ],
)
def test_only_inceptions_distance_is_called_fid(extractor: str, suffix: str, words: str) -> None:
    features = find("features", extractor)()
    for metric, after in (("fid", ""), ("fid_infinity", " at infinite N")):
        (value,) = reported(find("metrics", metric)(), features, suffix).values
        assert value.words == words + after
    (value,) = reported(find("metrics", "fid")(against="held_out"), features, suffix).values
    assert value.words == f"{words} to held-out images"
    assert value.shown.heading == ("FID\nheld-out" if words == "FID" else "FD\nheld-out")


def _wide(results: Results, metric: str, low: float, high: float) -> None:
    """Give the training seeds of every cell values so far apart that the interval leaves what is possible."""
    for place, cell in enumerate(results.cells):
        cell.scores[metric]["score"]["value"] = (low, high, (low + high) / 2)[place % 3]


def test_intervals_end_at_what_is_possible_and_the_table_says_so(tmp_path: Path) -> None:
    results, store = made(tmp_path, SINGLE, samples=False)
    whole = comparison_tables(results, compare(results, store), best_settings(results, chosen(results)))
    assert not any(CUT in note for table in whole for note in table.on_page().notes)
    _wide(results, "recall", 0.4, 0.98)
    _wide(results, "fid", 0.5, 9.0)
    groups = chosen(results)
    recall, fid = (shown_estimate(results, groups["plain"], metric) for metric in ("recall", "fid"))
    assert recall
    assert fid
    assert (recall.high, recall.cut) == (1.0, True)
    assert recall.low is not None
    assert (fid.low, fid.cut) == (0.0, True)
    tables = comparison_tables(results, compare(results, store), best_settings(results, groups))
    assert all(CUT in table.on_page().notes for table in (tables[0], tables[-1]))
    drawn = {one.name: one for one in draw_all(results, compare(results, store), store)[0]}
    assert CUT in drawn["precision_recall"].caption
    assert CUT in drawn["fid_calls"].caption


def test_arms_that_differ_in_an_interval_show_it(tmp_path: Path) -> None:
    text = SINGLE + "  late: {nag: {scale: 2.0, interval: {low: 0, high: 0.5}}}\n"
    results, store = made(tmp_path, text, samples=False)
    tables = comparison_tables(results, compare(results, store), best_settings(results, chosen(results)))
    shown = {row.cells[0].text: row.cells[1].text for row in tables[0].rows if row.arm}
    assert shown == {"plain": "–", "nag": "nag 2", "late": "nag 2, nag.interval.low 0, nag.interval.high 0.5"}


def test_a_reason_stands_once_below_its_table(tmp_path: Path) -> None:
    results, store = made(tmp_path, samples=False)
    for cell in results.cells:
        cell.scores["fid"]["score"] |= {"extrapolated": None, "reason": "N/2 = 50 is not above 64"}
    comparisons = compare(results, store)
    table = comparison_tables(results, comparisons, best_settings(results, chosen(results)))[0]
    assert "No difference in Fréchet distance (digits): N/2 = 50 is not above 64." in table.notes
    ruled = verdict_table(results, verdicts(results, comparisons))
    assert ruled is not None
    every = [cell for row in (*table.rows, *ruled.rows) for cell in row.cells]
    assert not any("N/2" in cell.text + cell.detail for cell in every)
    assert "Not tested: " in ruled.notes[0]
    assert "N/2 = 50 is not above 64." in ruled.notes[0]
    single, store = made(tmp_path / "single", SINGLE, samples=False)
    for cell in single.cells:
        cell.scores["fid"]["score"] |= {"extrapolated": None, "reason": "N/2 = 50 is not above 64"}
    assert first(single, store) == "Nothing is tested: N/2 = 50 is not above 64."


def test_alike_failures_are_one_reason(tmp_path: Path) -> None:
    results, store = made(tmp_path, SINGLE, scored=lambda place: place > 2, samples=False)
    for cell in results.cells[:3]:
        cell.reason = "out of memory"
    failed = report_content(results, compare(results, store), store, "nagbench report made").failed
    assert failed is not None
    assert (len(failed.rows), failed.notes) == (3, ("out of memory.",))
    results.cells[1].reason = "not finite"
    failed = report_content(results, compare(results, store), store, "nagbench report made").failed
    assert failed is not None
    assert failed.notes[1] == f"plain {results.cells[1].digest[:12]}: not finite."


def test_a_panel_without_a_difference_is_left_out(tmp_path: Path) -> None:
    results, store = made(tmp_path, SINGLE, samples=False)
    comparisons = compare(results, store)
    both = differences(results, comparisons, chosen(results), colours_of(results))
    assert both is not None
    assert len(both.figure.axes) == 2
    known = [
        dataclasses.replace(row, difference=None, low=None, high=None) if row.metric == "fid_pixels" else row
        for row in comparisons
    ]
    one = differences(results, known, chosen(results), colours_of(results))
    assert one is not None
    assert [axes.get_xlabel() for axes in one.figure.axes] == ["difference in Fréchet distance (digits)"]
    plain = made(tmp_path / "plain", SINGLE.replace("  nag: {nag: {scale: 2.0}}\n", ""), samples=False)
    names = {drawing.name for drawing in draw_all(plain[0], [], plain[1])[0]}
    assert "fid_scale" not in names  # no arm has a scale


def test_each_guidance_has_its_axis_and_curves_start_where_it_is_off(tmp_path: Path) -> None:
    results, _ = made(tmp_path, samples=False)
    panels = by_guidance(results, panels_of(results, "fid"))
    assert [panel.guidance for panel in panels] == ["cfg", "nag"]
    points = {curve.name: [(p.x, p.group.arm) for p in curve.points] for panel in panels for curve in panel.curves}
    assert points["cfg"][0] == (1.0, "plain")
    assert points["nag"][0] == (0.0, "plain")
    assert points["cfg_nag"] == [(0.0, "cfg"), (1.0, "cfg_nag")]
    assert points["plain"] == [(None, "plain")]


def test_the_front_has_what_nothing_cheaper_beats(tmp_path: Path) -> None:
    results, _ = made(tmp_path, samples=False)
    (panel,) = panels_of(results, "fid", sampler=False)
    points = [(p.group.cells[0].network_calls, p.estimate.mean) for c in panel.curves for p in c.points]
    found = front(results, "fid", panel)
    assert [calls for calls, _ in found] == [10, 20, 30]
    for calls, value in found:
        assert value == min(mean for price, mean in points if price is not None and price <= calls)


def test_real_images_are_those_of_the_data_set(tmp_path: Path) -> None:
    results, store = made(tmp_path, SINGLE)
    stream = results.plan.cells[0].stream
    images = real_images(results, store, stream, [3, 0])
    assert images is not None
    assert images.shape == (2, 1, 8, 8)
    split = find("datasets", "digits")().open("train")
    labels = split.labels(list(range(200)))
    wanted = split.images([int((labels == 3).argmax())])[0]
    assert abs(images[0] / 127.5 - 1 - wanted).max() < 0.005
    assert real_images(results, store, stream, [12]) is None
    assert class_names(results, stream) == ()


def test_a_name_says_the_shared_sampler_once() -> None:
    assert _name("cfg 1.5 euler 25 steps", "plain euler 25 steps") == "cfg 1.5 euler 25 steps against plain"
    assert _name("nag 2", "plain") == "nag 2 against plain"
    assert _name("nag heun", "cfg euler") == "nag heun against cfg euler"


def test_bounds_are_declared_for_what_has_them() -> None:
    def bounds(metric: str, name: str) -> Any:
        shown = find("metrics", metric).shown[name]
        return shown.at_least, shown.at_most

    assert bounds("fid", "fid") == (0.0, None)
    assert bounds("precision_recall", "recall") == (0.0, 1.0)
    assert bounds("inception_score", "inception_score") == (1.0, None)


def explained(results: Results, store: Store) -> str:
    return " ".join(explanations(results, verdicts(results, compare(results, store))))


def test_a_page_explains_its_own_words_and_only_those(tmp_path: Path) -> None:
    """The page is sent to colleagues, who have neither nagbench nor its documentation."""
    seeds = explained(*made(tmp_path / "seeds", SINGLE, samples=False))
    assert "Training seeds: " in seeds
    assert "One training seed: " not in seeds
    assert "Mixed: " not in seeds, "no metric must agree"
    assert "within the margin, 1.3 % of the baseline's value" in seeds
    agree = SINGLE.replace("arms:", "compare: {margin: 0.5, agree: [recall]}\narms:")
    alone = explained(*made(tmp_path / "one", agree.replace("{grid: [0, 1, 2]}", "0"), samples=False))
    assert "One training seed: " in alone
    assert "Training seeds: " not in alone
    assert "Mixed: better in Fréchet distance (digits), but worse in one that must agree: recall." in alone
    assert "within the margin, 0.5. " in alone


def test_the_explanations_stand_folded_below_the_verdicts(tmp_path: Path) -> None:
    results, store = made(tmp_path, SINGLE, samples=False)
    content = report_content(results, compare(results, store), store, "nagbench run x.yaml")
    page = html.page(content, colours_of(results))
    verdict = page.partition('<section id="verdict">')[2].partition("</section>")[0]
    assert f"<details>\n<summary>{TITLE}</summary>\n<ul" in verdict
    assert verdict.index("</table>") < verdict.index("<details>") < verdict.index("<figure")
    assert "docs/" not in page
    assert f"<details><summary>{TITLE}</summary>\n\n- Better, worse: " in markdown.text(content)
