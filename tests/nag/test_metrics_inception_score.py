"""The Inception Score against its formula by SciPy, in cases that are known, and the coverage of its interval."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

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
            runs = [rows[i * 203 // splits : (i + 1) * 203 // splits] for i in range(splits)]
            expected = np.mean([by_scipy(run) for run in runs])
            found = score(rows, splits)["values"]["inception_score"]["value"]
            assert found == pytest.approx(expected, rel=1e-12)
        monkeypatch.setattr(moments, "ROWS", 16)


def test_known_scores():
    assert score(np.zeros((5, 7)))["values"]["inception_score"]["value"] == pytest.approx(1, abs=1e-12)
    sure = 1e4 * np.eye(8)  # each sample another class, all of them certain: other probabilities are 0 in float64
    found = score(np.concatenate([sure, sure]))["values"]["inception_score"]
    assert found["value"] == pytest.approx(8)
    assert found["high"] - found["low"] < 1e-12
    assert score(np.concatenate([sure, sure[:, ::-1]]), 2)["values"]["inception_score"]["value"] == pytest.approx(8)
    unseen = np.concatenate([sure[:4], sure[:4]])
    assert score(unseen)["values"]["inception_score"]["value"] == pytest.approx(4)


@pytest.mark.parametrize("splits", [1, 4])
def test_influence_foretells_what_leaving_a_sample_out_does(splits):
    rows = logits(2000)
    found = score(rows, splits)
    run = rows[500:1000] if splits == 4 else rows
    change = []
    for i in range(0, 500, 25):
        rest = by_scipy(np.delete(run, i, axis=0))
        change.append((len(rows) - splits) / splits * (by_scipy(run) - rest))
    influence = found["arrays"]["influence"][500::25][:20] if splits == 4 else found["arrays"]["influence"][:500:25]
    np.testing.assert_allclose(change, influence, rtol=0.03, atol=0.03 * influence.std())


@pytest.mark.parametrize("splits", [1, 10])
def test_the_interval_covers_the_expectation_at_that_n(splits):
    def draw(seed):
        return score(logits(400, seed=seed), splits)["values"]["inception_score"]

    expectation = np.mean([draw(seed)["value"] for seed in range(1000, 2000)])
    covered = [s["low"] <= expectation <= s["high"] for s in map(draw, range(200))]
    assert 0.90 <= np.mean(covered) <= 0.99


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
