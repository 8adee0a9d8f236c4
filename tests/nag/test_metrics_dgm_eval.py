"""Precision, recall, density and coverage as dgm-eval computes them: of equally many rows of both sides."""

import numpy as np
import pytest

from nag.metrics.density_coverage import DensityCoverage
from nag.metrics.precision_recall import PrecisionRecall
from nag.noise import HALVES, permutation
from tests.nag.test_metrics_neighbours import features, pairs, score


@pytest.mark.parametrize("most", [120, 500])
def test_dgm_evals_precision_recall_density_and_coverage(most):
    """Of equally many rows of both, of 5 nearest others, its balls open: alike where no distance is a tie."""
    x, r = features(150, 6), features(131, 6, seed=1) * 1.1
    n = min(most, 131)
    ours, real = (a[np.sort(permutation(0, 0, len(a), HALVES)[:n])] for a in (x, r))
    of_x, of_r = (np.sort(pairs(a, a), axis=1)[:, 5] for a in (ours, real))
    d = pairs(ours, real)
    expected = {"precision": (d < of_r).any(1).mean(), "recall": (d < of_x[:, None]).any(0).mean()}
    assert score(PrecisionRecall(k=5, at_most=most), x, features=r)[0] == expected
    expected = {"density": (d < of_r).sum() / (5 * n), "coverage": (d.min(0) < of_r).mean()}
    assert score(DensityCoverage(at_most=most), x, features=r)[0] == expected


def test_few_samples_and_a_number_that_is_cut_to():
    """Both sides are cut to the smaller one, so it needs more than k rows, and is told so."""
    x, r = features(5, 6), features(131, 6, seed=1)
    assert score(DensityCoverage(), x, features=r)[0]["coverage"] < 1
    for metric in (DensityCoverage(at_most=120), PrecisionRecall(k=5, at_most=120)):
        with pytest.raises(ValueError, match="at least 6 sample features are needed; got 5"):
            score(metric, x, features=r)
