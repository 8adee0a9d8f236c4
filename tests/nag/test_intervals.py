"""The intervals cover what they claim to cover, on simulated skewed features (200 repetitions, fixed seeds).

With 200 repetitions a share of 0.95 has a standard error of 0.015: 0.90 to 0.99 is more than three of them below.
"""

import numpy as np
import pytest

from nag.intervals import influence_interval, paired_difference, t_interval
from nag.metrics.fid import FID

REPETITIONS = 200


def gaussian(d: int, seed: int = 1):
    """(root, reference): root root^T is a covariance whose spectrum falls as 1 / sqrt(i); features with exactly these
    moments and mean 0."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    root = Q * (4 / np.arange(1, d + 1) ** 0.5) ** 0.5
    x = rng.standard_normal((4 * d, d))
    x -= x.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
    return root, {"features": white @ root.T}


def skewed(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d) of mean 0, variance 1, skewness 1.4."""
    return (rng.gamma(2.0, size=(n, d)) - 2) / 2**0.5


def fid(features: np.ndarray, reference: dict[str, np.ndarray]):
    scores = FID()({"features": features}, reference)
    return scores["values"]["fid"], scores["arrays"]["influence"]


def test_the_interval_of_a_distance_covers_its_expectation_at_that_n():
    d, n = 12, 500
    root, reference = gaussian(d)
    shift = np.full(d, 0.3)
    rng = np.random.default_rng(0)

    def draw():
        return fid(shift + 0.9 * skewed(rng, n, d) @ root.T, reference)[0]

    expectation = np.mean([draw()["value"] for _ in range(1000)])
    covered = [s["low"] <= expectation <= s["high"] for s in (draw() for _ in range(REPETITIONS))]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_the_paired_interval_covers_and_is_narrower_where_noise_is_shared():
    d, n, rho = 12, 500, 0.9
    root, reference = gaussian(d)
    rng = np.random.default_rng(0)

    def draw():
        u = skewed(rng, n, d)
        v = rho * u + (1 - rho**2) ** 0.5 * skewed(rng, n, d)
        return fid(0.4 + u @ root.T, reference), fid(0.3 + 0.95 * v @ root.T, reference)

    expectation = np.mean([a["value"] - b["value"] for (a, _), (b, _) in (draw() for _ in range(1000))])
    covered, narrower = [], []
    for _ in range(REPETITIONS):
        (a, influence_a), (b, influence_b) = draw()
        difference, low, high = paired_difference(a["value"], influence_a, b["value"], influence_b)
        assert difference == a["value"] - b["value"]
        covered.append(low <= expectation <= high)
        narrower.append(np.hypot(a["high"] - a["low"], b["high"] - b["low"]) / (high - low))
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(narrower) > 2


def test_the_extrapolated_difference_is_fair_to_an_arm_that_has_not_shrunk_its_covariance():
    """Two arms at the same true distance; guidance shrank one's covariance by a tenth. N is 5 times the dimension."""
    d, n, shrink = 64, 320, 0.9
    root, reference = gaussian(d)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(d)
    direction /= np.linalg.norm(direction)
    trace = (root**2).sum()
    distance = 0.1 * trace  # of the plain arm: a shift alone; the other has a smaller shift and its loss of spread
    shift = distance**0.5 * direction
    guided_shift = (distance - (1 - shrink**0.5) ** 2 * trace) ** 0.5 * direction

    covered = {"value": 0, "extrapolated": 0}
    for _ in range(REPETITIONS):
        u = skewed(rng, n, d) @ root.T
        plain, influence_plain = fid(shift + u, reference)
        guided, influence_guided = fid(guided_shift + shrink**0.5 * u, reference)
        for key in covered:
            _, low, high = paired_difference(guided[key], influence_guided, plain[key], influence_plain)
            covered[key] += low <= 0 <= high
    assert covered["value"] / REPETITIONS < 0.5
    assert covered["extrapolated"] / REPETITIONS >= 0.85


def test_the_influences_of_several_sample_seeds_one_after_another_give_the_interval_of_their_mean():
    rng = np.random.default_rng(0)
    cells = [(scale, scale * rng.standard_normal(400)) for scale in (1.0, 2.0, 5.0)]
    errors = [influence.std(ddof=1) / 20 for _, influence in cells]
    low, high = influence_interval(np.mean([v for v, _ in cells]), np.concatenate([i - i.mean() for _, i in cells]))
    assert (high - low) / 2 == pytest.approx(1.96 * np.linalg.norm(errors) / 3, rel=0.005)


def test_the_t_interval_covers_the_mean_of_three():
    rng = np.random.default_rng(0)
    intervals = [t_interval(list(row)) for row in 5 + rng.standard_normal((4000, 3))]
    assert np.mean([low <= 5 <= high for _, low, high in intervals]) == pytest.approx(0.95, abs=0.012)


def test_the_t_interval_of_one_value_has_no_bounds_and_of_equal_values_no_width():
    assert t_interval([2.5]) == (2.5, None, None)
    assert t_interval([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([]), "one or more finite"),
        (lambda: t_interval([1.0, float("nan")]), "finite"),
        (lambda: paired_difference(1, np.zeros(5), 2, np.zeros(4)), r"equal numbers of samples; got \(5,\) and \(4,\)"),
        (lambda: influence_interval(1, np.zeros(1)), "at least 2"),
        (lambda: influence_interval(1, np.array([0, 1, np.nan])), "influence 2 of 3 is not finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
