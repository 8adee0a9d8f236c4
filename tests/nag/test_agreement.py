"""Rank correlations of metrics, against SciPy's, and the coverage of their intervals."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from nag.agreement import agreement, spearman


def test_it_is_scipys_spearman_with_ties():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, size=(40, 4)) + rng.standard_normal((40, 1))
    np.testing.assert_allclose(spearman(x), spearmanr(x).statistic, rtol=1e-12)


def test_the_intervals_are_fixed_and_cover_the_correlation():
    """Bivariate normal with correlation 0.6: its rank correlation is 6 / pi asin(0.3)."""
    truth, covered = 6 / np.pi * np.arcsin(0.3), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=30)
        found = agreement(x)
        covered += found.low[0, 1] <= truth <= found.high[0, 1]
        assert found.low[0, 1] <= found.rho[0, 1] <= found.high[0, 1]
    assert covered >= 51  # 0.85
    again = agreement(x)
    assert np.array_equal(again.low, found.low)
    assert np.array_equal(found.high, found.high.T)


def test_few_cells_equal_values_and_bad_input():
    x = np.array([[1.0, 2, 5], [2, 1, 5], [3, 3, 5], [4, 5, 5], [5, 4, 5], [6, 6, 5]])
    found = agreement(x)
    assert np.isnan(found.rho[2]).all()
    assert np.isfinite(found.low[:2, :2]).all()
    assert np.isnan(agreement(x[:2]).rho).all()
    assert np.isfinite(agreement(x[:4]).rho[:2, :2]).all()
    assert np.isnan(agreement(x[:4]).low).all()
    x[1, 1] = np.inf
    with pytest.raises(ValueError, match="agreement needs finite values"):
        agreement(x)


def test_within_trainings_it_does_not_matter_how_good_a_training_is():
    """Over all cells the trainings' levels hide the order of settings; within each it is SciPy's."""
    rng = np.random.default_rng(3)
    settings = rng.standard_normal((12, 1))
    values = np.array([[1, -1] * settings + 0.3 * rng.standard_normal((12, 2)) + 20 * seed for seed in range(4)])
    found, pooled = agreement(values), agreement(values.reshape(-1, 2))
    own = [spearmanr(training).statistic for training in values]
    assert found.rho[0, 1] == pytest.approx(np.mean(own))
    assert found.high[0, 1] < -0.5 < 0.5 < pooled.low[0, 1]
    one = agreement(values[:1])
    assert all(np.array_equal(a, b) for a, b in zip(one, agreement(values[0]), strict=True))
