"""Verdicts, how settings were chosen and what could have been seen: from synthetic results in the real dataclasses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from nag.verdict import Evidence, detectable, rulings
from orchestrator.plan.make import plan
from orchestrator.plan.model import Budget, Choice, Trial
from orchestrator.plan.progress import Done
from orchestrator.report import foresight, markdown
from orchestrator.report.answer import answer
from orchestrator.report.comparisons import compare
from orchestrator.report.content import report_content
from orchestrator.report.document import document
from orchestrator.report.estimates import chosen
from orchestrator.report.results import Results, collect
from orchestrator.report.terminal import comparison
from orchestrator.report.verdict_table import tag_text, verdict_table
from orchestrator.report.verdicts import Verdict, verdicts
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tracking.runs import runs
from tests.orchestrator.conftest import TINY, changed, run_here
from tests.orchestrator.synthetic import SWEEP, made

SINGLE = (
    SWEEP.replace("{grid: [1.25, 1.5, 2.0]}", "1.5")
    .replace("{grid: [0.5, 1.0, 2.0, 3.0]}", "2.0")
    .replace("cfg_nag: {cfg: {scale: 1.25}", "cfg_nag: {cfg: {scale: 1.5}")
)
Made = tuple[Results, Store]


def sweep(compare_section: str, text: str = SINGLE) -> str:
    return text.replace("arms:", f"compare: {compare_section}\narms:")


def ruled(results: Results, store: Store) -> dict[str, Verdict]:
    """By arm; the last of several combinations."""
    return {one.group.arm: one for one in verdicts(results, compare(results, store))}


def sentences(results: Results, store: Store) -> str:
    return " ".join(answer(results, compare(results, store), chosen(results)))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("single"), SINGLE, samples=False)


def test_the_family_is_every_arm_with_a_baseline_and_holm_corrects_it(single: Made) -> None:
    rows = {row.arm: row for row in compare(*single) if row.metric == "fid"}
    found = ruled(*single)
    assert list(found) == ["cfg", "nag", "cfg_nag"]
    evidence = []
    for arm, one in found.items():
        x = rows[arm].per_seed
        mean = sum(x) / 3
        se = (sum((v - mean) ** 2 for v in x) / 2 / 3) ** 0.5
        assert one.margin is not None
        evidence.append(Evidence(mean, se, 2, one.margin))
    for one, expected in zip(found.values(), rulings(evidence), strict=True):
        assert one.outcome == expected.outcome
        assert one.p == pytest.approx(expected.p)
        assert one.adjusted_p == pytest.approx(expected.adjusted_p)
        assert (one.adjusted_low, one.adjusted_high) == pytest.approx((expected.adjusted_low, expected.adjusted_high))
        assert (one.low, one.high) == (rows[one.group.arm].low, rows[one.group.arm].high)


def test_the_margin_is_a_share_of_the_baselines_value_or_in_the_metrics_unit(single: Made, tmp_path: Path) -> None:
    base = [cell.value("fid") or 0 for cell in single[0].of("plain")]
    assert ruled(*single)["nag"].margin == pytest.approx(0.013 * sum(base) / 3)
    wide = ruled(*made(tmp_path, sweep("{margin: 9}"), samples=False))
    assert {one.margin for one in wide.values()} == {9}
    assert {one.outcome for one in wide.values()} == {"alike"}


def test_sentences_lead_with_the_verdict(single: Made, tmp_path: Path) -> None:
    assert sentences(*single).startswith("Better: nag beats plain in Fréchet distance (digits) (")
    worse = made(tmp_path / "worse", SINGLE, nag_gain=-6.0, samples=False)
    assert sentences(*worse).startswith("Worse: nag loses to plain in Fréchet distance (digits) (")
    alike = made(tmp_path / "alike", sweep("{margin: 9}"), samples=False)
    assert sentences(*alike).startswith(
        "Alike: nag does as well, within the margin, as plain in Fréchet distance (digits) ("
    )


def test_better_with_a_metric_of_agree_that_is_worse_is_mixed(tmp_path: Path) -> None:
    """NAG lowers recall by 0.012 a unit of its scale; 8 make that plain."""
    text = sweep("{agree: [recall, precision]}", SINGLE.replace("nag: {nag: {scale: 2.0}}", "nag: {nag: {scale: 8.0}}"))
    results, store = made(tmp_path, text, nag_gain=8.0, samples=False)
    one = ruled(results, store)["nag"]
    assert one.outcome == "mixed"
    assert [word.metric for word in one.words[:2]] == ["recall", "precision"]
    assert tag_text(results, one) == "mixed against plain: worse in recall"
    assert sentences(results, store).startswith("Mixed: nag beats plain in Fréchet distance (digits) (")
    assert "but is worse in recall" in sentences(results, store)
    without = made(
        tmp_path / "without", text.replace("[recall, precision]", "[precision]"), nag_gain=8.0, samples=False
    )
    assert ruled(*without)["nag"].outcome == "better"


def test_a_metric_of_agree_without_an_interval_is_named_as_not_known(tmp_path: Path) -> None:
    one_seed = sweep("{agree: [recall]}", SINGLE.replace("{grid: [0, 1, 2]}", "0"))
    results, store = made(tmp_path, one_seed, samples=False)
    one = ruled(results, store)["nag"]
    assert (one.interval, one.words[0].outcome) == ("influence", None)
    table = verdict_table(results, [one])
    assert table is not None
    assert "recall not known" in table.rows[0].cells[5].detail
    assert "retraining is not in it" in table.notes[0]
    assert any("retraining is not in it" in note for note in table.notes)
    assert "retraining is not in it" in foresight.limit(results, compare(results, store))


def test_the_best_of_several_settings_is_not_tested(tmp_path: Path) -> None:
    """cfg and nag are grids; cfg_nag has one setting and, at its scale, one baseline: the only test, not corrected."""
    results, store = made(tmp_path, samples=False)
    found = ruled(results, store)
    assert {arm: one.tested for arm, one in found.items()} == {"cfg": False, "nag": False, "cfg_nag": True}
    assert found["nag"].reason == "a choice and not a test: the best of 4 settings, by the samples that score it"
    assert found["cfg_nag"].p == found["cfg_nag"].adjusted_p
    assert set(found["nag"].optima) == {"fid_pixels"}
    assert sentences(results, store).startswith("A choice and not a test: nag")
    several = SINGLE.replace("plain: {}", "plain: {cfg: {scale: {grid: [1.1, 1.2]}}}").replace(
        "cfg: {cfg: {scale: 1.5}}", "cfg: {nag: {scale: 1.0}}"
    )
    base = made(tmp_path / "base", several.replace(", against: cfg", ""), samples=False)
    assert "the baseline is the best of several settings" in (ruled(*base)["nag"].reason or "")


def test_each_combination_of_the_factors_outside_arms_is_tested(tmp_path: Path) -> None:
    text = SINGLE.replace("{name: euler, steps: 10}", "{grid: [{name: euler, steps: 10}, {name: heun, steps: 5}]}")
    results, store = made(tmp_path, text, samples=False)
    every = verdicts(results, compare(results, store))
    assert len(every) == 6
    assert all(one.tested for one in every)
    assert all(one.group.params["sampler"] == one.baseline.params["sampler"] for one in every)
    assert "of 2 combinations: nag" in sentences(results, store)


def chosen_arm(results: Results, spent: float = 4e5) -> Results:
    """nag at 2.0, as if it had been chosen among four, and cfg with a tenth of the effort."""

    def choice(arm: str, key: str, best: float, evaluations: float) -> Choice:
        def trial(place: int, value: float) -> Trial:
            apart = abs(value - best)
            held = {"difference": apart, "low": apart - 0.2, "high": apart + 0.2} if apart else {}
            count, pixels = (500 if value > best else 1000), {"fid_pixels": 1 + value, "fid": 5 + apart}
            return Trial(params={key: value}, place=(place,), count=count, value=5 + apart, values=pixels, **held)

        trials = tuple(trial(place, best * share) for place, share in enumerate((0.25, 0.5, 1.0, 2.0)))
        known = {"trials": trials, "leader": trials[2], "chosen": trials[2], "left": 1}
        size = {"samples": 3500, "exhaustive": 10_000, "evaluations": evaluations}
        size["allowed"] = Budget(4, 3500, evaluations)
        return Choice(arm=arm, params={"network": "sit"}, metric="fid", score="fid", **known, **size)

    choices = (choice("nag", "nag.scale", 2.0, spent), choice("cfg", "cfg.scale", 1.5, 1e5))
    return dataclasses.replace(results, choices=choices)


def test_a_tuned_setting_is_tested_and_its_choice_is_told(single: Made, tmp_path: Path) -> None:
    results, store = chosen_arm(single[0]), single[1]
    one = ruled(results, store)["nag"]
    assert one.outcome == "better"
    assert one.optima == {"fid_pixels": {"nag.scale": 0.5}}  # of those with all samples
    text = markdown.text(report_content(results, compare(results, store), store, "nagbench run x.yaml"))
    assert text.index("## Verdict") < text.index("## How settings were chosen") < text.index("## Arms")
    for words in (
        "by FD pixels: nag 0.5",
        "Tuned settings were chosen on other samples.",
        "Arms are not tuned with equal budgets (evaluations: nag 400,000, cfg 100,000).",
        "| nag | nag 2<br><sub>by fid</sub> | 4 | 3,500 | 35 % | 400,000 |",
        "confirmed on fresh samples",
        "figures/choices.svg",
    ):
        assert words in text
    out = StringIO()
    for piece in comparison(results, compare(results, store)):
        Console(file=out, width=100).print(piece)
    shown = out.getvalue()
    assert shown.index("Verdict") < shown.index("How settings were chosen") < shown.index("Distances")
    assert "equal budgets" not in markdown.text(
        report_content(chosen_arm(results, 1.05e5), compare(results, store), store, "x")
    )


def test_tuned_arms_are_compared_whatever_values_were_chosen(tmp_path: Path) -> None:
    """CFG + NAG at its own best CFG scale, against CFG at another."""
    results, store = made(tmp_path, SINGLE.replace("cfg_nag: {cfg: {scale: 1.5}", "cfg_nag: {cfg: {scale: 1.25}"))
    assert "cfg_nag" not in ruled(results, store)
    assert ruled(chosen_arm(results), store)["cfg_nag"].tested


def test_json_has_verdict_and_choices_and_what_it_had(single: Made) -> None:
    plain, found = document(*single), json.loads(json.dumps(document(chosen_arm(single[0]), single[1])))
    assert plain["choices"] == []
    assert found["cells"] == json.loads(json.dumps(plain["cells"]))
    assert found["verdict"]["comparisons"] == 3
    row = next(row for row in found["verdict"]["arms"] if row["arm"] == "nag")
    assert (row["outcome"], row["chosen"], row["nfe"], row["against_nfe"]) == ("better", {"nag.scale": 2.0}, 20, 10)
    assert row["adjusted_p"] >= row["p"]
    assert found["choices"][0]["chosen"]["params"] == {"nag.scale": 2.0}
    assert len(found["choices"][0]["trials"]) == 4


def test_runs_in_mlflow_have_their_verdict(single: Made) -> None:
    found = {run.tags["arm"]: run.verdict for run in runs(*single) if run.tags["kind"] == "cell"}
    assert found["plain"] is None
    assert found["nag"] == "better than plain"
    cells = [dataclasses.replace(cell, complete=False) if cell.arm == "cfg" else cell for cell in single[0].cells]
    partial = dataclasses.replace(single[0], cells=cells)
    assert not any(run.verdict or run.differences for run in runs(partial, single[1]))


def test_runs_in_mlflow_have_the_difference_from_their_baseline(single: Made) -> None:
    """Cells and their setting, with its interval."""
    [known] = [one for one in verdicts(single[0], compare(*single)) if one.group.arm == "nag"]
    nag = [run for run in runs(*single) if run.tags.get("arm") == "nag" and run.tags["kind"] in ("cell", "setting")]
    assert {run.tags["kind"] for run in nag} == {"cell", "setting"}
    for run in nag:
        told = {name: value for name, value, *_ in run.differences}
        for end, value in (("", known.difference), ("_low", known.low), ("_high", known.high)):
            assert told[f"fid_difference{end}"] == pytest.approx(value, rel=1e-5)


def test_what_could_have_been_seen_is_from_the_spread_over_seeds(single: Made) -> None:
    results, store = single
    found = foresight.detectable_difference(results, compare(results, store))
    assert found is not None
    rows = [row for row in compare(results, store) if row.metric == "fid"]
    shares = []
    for row in rows:
        base = [cell.value("fid") or 0 for cell in results.of(row.against)]
        mean = sum(row.per_seed) / 3
        shares.append(sum((v - mean) ** 2 for v in row.per_seed) / 2 / (sum(base) / 3) ** 2)
    assert found.spread == pytest.approx((sum(shares) / 3) ** 0.5)
    assert (found.seeds, found.comparisons, found.margin) == (3, 3, pytest.approx(0.013))
    assert found.share == pytest.approx(9.816 * found.spread / 3**0.5, rel=1e-3)  # scipy's nct at 0.05 / 3, df 2
    text = foresight.limit(results, compare(results, store))
    assert text.startswith("With 3 training seeds and 3 comparisons, a difference of ")
    assert "for the margin of 1.3 %," in text


def test_a_plan_tells_what_can_be_seen(single: Made, tmp_path: Path) -> None:
    """Before anything ran, by the literature: 1 % with 3 seeds and 3 comparisons, by nct: 9.816 / sqrt(3) %."""
    lines = foresight.forecast(single[0].plan, none := Store(str(tmp_path / "none")), Done(none))
    assert lines[0].startswith("With 3 training seeds and 3 comparisons, differences of 5.7 % to 11 % of")
    assert lines[1].startswith("For the margin of 1.3 %, 10 to 28 training seeds are needed")
    one = made(tmp_path / "one", SINGLE.replace("{grid: [0, 1, 2]}", "0"), scored=lambda place: False)
    assert foresight.forecast(one[0].plan, one[1], Done(one[1]))[0].endswith("retraining is not in it.")


def test_every_choice_will_be_compared(tmp_path: Path) -> None:
    """Two tuned arms at three numbers of steps: six comparisons, although there is no cell of them yet."""
    path = tmp_path / "sweep.yaml"
    scale = "scale: {tune: [1.2, 1.5]}"
    path.write_text(
        changed(TINY, "steps: 2}", "steps: {grid: [2, 3, 4]}}", "scale: {grid: [1.0, 2.0]}", scale, "scale: 1.5", scale)
        + "tune: {metric: class_accuracy_digits, seed: 1, count: 40}\n"
    )
    [line, *_] = foresight.forecast(plan(read_sweep(path)), store := Store(str(tmp_path / "none")), Done(store))
    assert line.startswith("With 2 training seeds and 6 comparisons, ")


def test_a_plan_knows_the_spread_of_the_store(write: Callable[..., Path], tmp_path: Path) -> None:
    names = (
        "count: 40, block: 20",
        "count: 400, block: 400",
        "[pixels, {name: digits, steps: 5}]",
        "[{name: digits, steps: 5}]",
    )
    names += (", precision_recall, class_accuracy", "", "{grid: [1.0, 2.0]}", "1.0")
    ran = run_here(write(*names), tmp_path / "store")
    results = collect(ran.plan, ran.store)
    seen = foresight.detectable_difference(results, compare(results, ran.store))
    assert seen is not None
    [line] = foresight.forecast(ran.plan, ran.store, Done(ran.store))
    assert f"a difference of {foresight.percent(seen.share)} of the baseline's value will be found" in line
    assert "by the spread of 2 seeds in the store" in line
    wider = plan(read_sweep(write(*names, "{grid: [0, 1]}", "{grid: [0, 1, 2, 3]}")))
    [line] = foresight.forecast(wider, ran.store, Done(ran.store))
    assert line.startswith("With 4 training seeds and 2 comparisons, a difference of ")
    assert f"of {foresight.percent(detectable(seen.spread / 2, 3, 2))} of the baseline" in line
