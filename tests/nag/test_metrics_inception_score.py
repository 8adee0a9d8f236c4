"""The Inception Score against its formula by SciPy, in cases that are known, and the coverage of its interval."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from nag import noise
from nag.metrics import moments
from nag.metrics.inception_score import InceptionScore


def logits(n: int, classes: int = 10, sure: float = 3.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((n, classes))
    found[np.arange(n), rng.integers(0, classes, n)] += sure * rng.random(n)
    return found.astype(np.float32)


def score(rows, splits=1):
    return InceptionScore(splits=splits)({"logits": rows}, {})


def by_scipy(rows) -> float:
    p = softmax(rows.astype(float), axis=1)
    return float(np.exp(entropy(p, p.mean(axis=0, keepdims=True), axis=1).mean()))


def test_it_is_the_formula_in_any_number_of_splits(monkeypatch):
    rows = logits(203)
    for _ in range(2):
        assert score(rows)["values"]["inception_score"]["value"] == pytest.approx(by_scipy(rows), rel=1e-12)
        for splits in (2, 10):
            expected = np.mean([by_scipy(rows[part]) for part in noise.parts(203, splits)])
            found = score(rows, splits)["values"]["inception_score"]["value"]
            assert found == pytest.approx(expected, rel=1e-12)
        monkeypatch.setattr(moments, "ROWS", 16)


def test_known_scores():
    assert score(np.zeros((5, 7)))["values"]["inception_score"]["value"] == pytest.approx(1, abs=1e-12)
    sure = 1e4 * np.eye(8)  # each sample another class, all of them certain: other probabilities are 0 in float64
    found = score(np.concatenate([sure, sure]))["values"]["inception_score"]
    assert found["value"] == pytest.approx(8)
    assert found["high"] - found["low"] < 1e-12
    twice = np.empty((16, 8))
    for part in noise.parts(16, 2):
        twice[part] = sure
    assert score(twice, 2)["values"]["inception_score"]["value"] == pytest.approx(8)
    unseen = np.concatenate([sure[:4], sure[:4]])
    assert score(unseen)["values"]["inception_score"]["value"] == pytest.approx(4)


@pytest.mark.parametrize("splits", [1, 4])
def test_influence_is_what_leaving_a_sample_out_does(splits):
    rows = logits(400)
    part = noise.parts(400, 4)[1] if splits == 4 else np.arange(400)
    whole, n = by_scipy(rows[part]), len(part)
    change = np.array([(n - 1) * (whole - by_scipy(rows[np.delete(part, i)])) for i in range(n)])
    influence = score(rows, splits)["arrays"]["influence"][part]
    np.testing.assert_allclose(influence, change - change.mean(), rtol=1e-4, atol=1e-5 * influence.std())


@pytest.mark.parametrize("splits", [1, 10])
def test_the_interval_covers_the_expectation_at_that_n(splits):
    assert 0.90 <= covered(lambda seed: logits(400, seed=seed), splits, 200, 400) <= 0.99


def test_the_interval_covers_where_classes_are_more_than_the_samples_of_a_split():
    """By the derivative alone it would cover 0.83 here."""
    assert 0.90 <= covered(lambda seed: logits(300, 150, 7.0, seed), 10, 150, 250) <= 0.99


def covered(draw, splits, repetitions, more):
    """The share of intervals that hold the mean of all the scores, of repetitions + more of them."""
    found = [score(draw(seed), splits)["values"]["inception_score"] for seed in range(repetitions + more)]
    expectation = np.mean([one["value"] for one in found])
    return np.mean([one["low"] <= expectation <= one["high"] for one in found[:repetitions]])


def test_sorted_samples_have_the_score_of_shuffled_ones():
    """In runs of their order, samples sorted by class would have 2 of 20 classes in each of 10 splits."""
    rows = logits(1000, 20, 9.0)
    by_class = rows[np.argsort(rows.argmax(axis=1), kind="stable")]
    shuffled, ordered = (score(x, 10)["values"]["inception_score"]["value"] for x in (rows, by_class))
    assert ordered == pytest.approx(shuffled, rel=0.05)
    assert ordered > 2 * np.mean([by_scipy(run) for run in np.array_split(by_class, 10)])


def test_bad_input_is_named():
    good = logits(40)
    for rows, splits, message in (
        (np.where(good == good[7, 1], np.nan, good), 1, "sample logits: row 7 of 40 is not finite"),
        (good[:1], 1, "at least 2 sample logits are needed; got 1"),
        (good[:19], 10, "at least 20 sample logits are needed; got 19"),
        (good[0], 1, r"sample logits must be \(N, dim\)"),
    ):
        with pytest.raises(ValueError, match=message):
            score(rows, splits)
    with pytest.raises(ValueError, match="no sample logits"):
        InceptionScore()({"features": good}, {})
