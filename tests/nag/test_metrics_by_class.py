"""Values by class against a direct computation for each class; an imbalance of labels told apart from quality."""

from __future__ import annotations

import numpy as np
import pytest

from nag.intervals import influence_interval
from nag.metrics import cache
from nag.metrics.coverage_by_class import CoverageByClass
from nag.metrics.density_coverage import DensityCoverage
from nag.metrics.fid import FID
from nag.metrics.fid_by_class import FIDByClass
from nag.metrics.label_balance import LabelBalance, expected_by_chance
from nag.metrics.precision_recall import PrecisionRecall
from nag.racing import projection

D = 4
CENTRES = 6 * np.random.default_rng(0).standard_normal((5, D))
Images = dict[str, np.ndarray]


def images(counts: tuple[int, ...], seed: int, spread: tuple[float, ...] = (1, 1, 1, 1, 1)) -> Images:
    """Features of so many images of each class, in no order, around the class's centre."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    noise = rng.standard_normal((len(labels), D)) * np.array(spread)[labels, None]
    return {"features": (CENTRES[labels] + noise).astype(np.float32), "labels": labels}


def of_class(side: Images, label: int) -> Images:
    return {"features": side["features"][side["labels"] == label]}


def test_the_distance_of_each_class_is_fid_of_its_images_alone() -> None:
    x, r = images((30, 40, 50), 1, (1, 2, 1, 1, 1)), images((60, 70, 80), 2)
    found = FIDByClass()(x, r)
    table, direct = found["by_class"], [FID()(of_class(x, c), of_class(r, c))["values"]["fid"] for c in range(3)]
    assert (table["labels"], table["samples"], table["reference"]) == ([0, 1, 2], [30, 40, 50], [60, 70, 80])
    for column, key in (("fid_by_class", "value"), ("low", "low"), ("high", "high"), ("extrapolated", "extrapolated")):
        assert table["values"][column] == [score[key] for score in direct]  # type: ignore[literal-required]
    values = [score["value"] for score in direct]
    mean = found["values"]["fid_by_class"]
    assert mean["value"] == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert mean["extrapolated"] == pytest.approx(np.mean([score["extrapolated"] for score in direct]))  # type: ignore[arg-type]
    assert found["values"]["fid_worst_class"]["value"] == values[1] == max(values)  # type: ignore[type-var]
    assert (table["ranks"], table["left_out"]) == ("extrapolated", None)


def test_the_interval_of_the_mean_over_classes_is_that_of_other_samples() -> None:
    r = images((400, 400, 400), 3)
    draws = [FIDByClass()(images((40, 80, 160), seed, (1.5, 1, 1.2, 1, 1)), r)["values"] for seed in range(10, 210)]
    true = np.std([one["fid_by_class"]["value"] for one in draws])
    halves = [(one["fid_by_class"]["high"] - one["fid_by_class"]["low"]) / 2 for one in draws]  # type: ignore[operator]
    assert np.mean(halves) == pytest.approx(1.96 * true, rel=0.2)


def test_small_classes_are_left_out_and_named() -> None:
    x, r = images((30, D, 50, 0), 1), images((60, 70, D, 9), 2)
    found = FIDByClass()(x, r)
    table = found["by_class"]
    assert [value is None for value in table["values"]["fid_by_class"]] == [False, True, True, True]
    assert table["left_out"] == (
        "3 of 4 classes left out, as 5 of both are needed: class 1 has 4 samples and 70 reference images; class 2 has "
        "50 samples and 4 reference images; class 3 has 0 samples and 9 reference images"
    )
    assert found["values"]["fid_by_class"]["value"] == table["values"]["fid_by_class"][0]
    assert not found["arrays"]["influence"][x["labels"] != 0].any()
    none = FIDByClass()(images((2, 2), 1), images((60, 70), 2))
    assert none["values"]["fid_by_class"]["value"] is None
    assert str(none["values"]["fid_by_class"]["reason"]).startswith("no value: 2 of 2 classes left out, as 5 of both")
    assert none["by_class"]["ranks"] == ""


def test_on_directions_fewer_samples_suffice() -> None:
    x, r = images((4, 5, 6), 1), images((30, 30, 30), 2)
    found = FIDByClass(directions=2)(x, r)
    P = projection(D, 2)
    for c in range(3):
        sides = ({"features": of_class(side, c)["features"].astype(float) @ P} for side in (x, r))
        assert found["by_class"]["values"]["fid_by_class"][c] == FID()(*sides)["values"]["fid"]["value"]
    assert FIDByClass(directions=2).least_of_class == 3


def test_coverage_and_recall_of_each_class_are_those_of_its_images_alone() -> None:
    x, r = images((30, 40, 2), 1, (0.3, 1, 1, 1, 1)), images((60, 70, 80), 2)
    cache._kept.clear()
    PrecisionRecall()(x, r)
    before = [*cache._kept]
    found = CoverageByClass(k=2)(x, r)
    assert [*cache._kept] == before  # what metrics of all classes may ask for is still there
    table = found["by_class"]
    for c in range(2):
        sides = of_class(x, c), of_class(r, c)
        assert table["values"]["coverage_by_class"][c] == DensityCoverage(k=2)(*sides)["values"]["coverage"]["value"]
        assert table["values"]["recall_by_class"][c] == PrecisionRecall(k=2)(*sides)["values"]["recall"]["value"]
    assert table["values"]["coverage_by_class"][2] is None
    assert str(table["left_out"]).startswith("1 of 3 classes left out, as 3 of both are needed: class 2 has 2 samples")
    coverage = table["values"]["coverage_by_class"][:2]
    assert found["values"]["coverage_worst_class"]["value"] == min(coverage)  # type: ignore[type-var]
    assert found["values"]["coverage_by_class"]["value"] == pytest.approx(sum(coverage) / 2)  # type: ignore[arg-type]


def test_an_imbalance_of_labels_is_told_apart_from_quality() -> None:
    """Perfect samples with skewed labels: FID is large, by class and balanced it is small. Bad ones with even labels:
    both are large, and there is no imbalance.
    """
    reference = images((1000, 1000, 1000, 1000, 1000), 1)
    skewed = images((2000, 1200, 1000, 500, 300), 2)
    bad = images((1000, 1000, 1000, 1000, 1000), 3, (2, 2, 2, 2, 2))
    told = []
    for side in (skewed, bad):
        values = FID()(side, reference)["values"] | FIDByClass()(side, reference)["values"]
        values |= LabelBalance()(side, reference)["values"]
        told.append({name: float(score["value"] or 0) for name, score in values.items()})
    of_skewed, of_bad = told
    assert of_skewed["label_imbalance"] == pytest.approx(0.24)
    assert of_skewed["fid"] > 2
    assert of_skewed["fid_balanced"] < 0.1
    assert of_skewed["fid_by_class"] < 0.1
    assert of_bad["label_imbalance"] == 0
    assert of_bad["fid_balanced"] == pytest.approx(of_bad["fid"], rel=1e-9)
    assert of_bad["fid_by_class"] > 2


def test_the_balanced_distance_has_the_interval_of_a_bootstrap_within_classes() -> None:
    reference, x = images((300, 300, 300), 1), images((100, 200, 400), 2, (2, 1, 0.5, 1, 1))
    x["features"] += 1
    found = LabelBalance()(x, reference)
    score, rng, values = found["values"]["fid_balanced"], np.random.default_rng(0), []
    groups = [np.flatnonzero(x["labels"] == c) for c in range(3)]
    for _ in range(300):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values.append(LabelBalance()({key: side[rows] for key, side in x.items()}, reference)["values"]["fid_balanced"])
    spread = np.std([one["value"] for one in values])
    assert (score["high"] - score["low"]) / 2 == pytest.approx(1.96 * spread, rel=0.12)  # type: ignore[operator]
    assert influence_interval(float(score["value"] or 0), found["arrays"]["influence"])[0] == pytest.approx(
        score["low"], rel=1e-5
    )


def test_a_missing_class_has_no_balance_and_chance_is_estimated() -> None:
    found = LabelBalance()(images((30, 30, 0), 1), images((50, 50, 50), 2))
    assert found["values"]["fid_balanced"]["reason"] == (
        "no value: there are no samples of class 2, which the reference has"
    )
    assert found["values"]["label_imbalance"]["value"] == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    drawn = [[rng.multinomial(n, [0.1] * 10) for n in (500, 800)] for _ in range(400)]
    true = np.mean([np.abs(a / 500 - b / 800).sum() / 2 for a, b in drawn])
    assert expected_by_chance([50] * 10, [80] * 10) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("metric", [FIDByClass(), CoverageByClass(), LabelBalance()], ids=lambda m: m.names[0])
def test_images_without_labels_are_refused(metric: FIDByClass) -> None:
    x, r = images((30, 30), 1), images((30, 30), 2)
    with pytest.raises(ValueError, match="the reference images have no labels, which a metric by class needs"):
        metric(x, {"features": r["features"]})
    with pytest.raises(ValueError, match="have no labels, or are all of one class: nothing to tell apart"):
        metric(x, {**r, "labels": np.zeros(60, np.int64)})
    with pytest.raises(
        ValueError, match=r"labels of the samples must be whole numbers, one for each; got int64 \(3,\)"
    ):
        metric({**x, "labels": x["labels"][:3]}, r)
