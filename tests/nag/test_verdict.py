"""Rulings by hand-worked numbers and by simulation (fixed seeds); power against scipy and against simulation."""

import numpy as np
import pytest
from scipy.stats import binom, nct, t

from nag.verdict import Evidence, detectable, rulings, seeds_needed


def normal(z, margin=0.0):
    """Evidence with a standard error of 1."""
    return Evidence(z, 1.0, None, margin)


def test_holm_by_hand():
    """p of |z| 3, 2.2, 2.1 and 0.5 are 0.0027, 0.0278, 0.0357 and 0.617. The limits are 0.0125, 0.0167: the second is
    not below its own, so the third is not held either.
    """
    found = rulings([normal(-2.1), normal(0.5), normal(3.0), normal(-2.2)])
    assert [one.outcome for one in found] == ["undecided", "undecided", "worse", "undecided"]
    assert [one.p for one in found] == pytest.approx([0.03573, 0.61708, 0.00270, 0.02781], abs=1e-5)
    assert [one.adjusted_p for one in found] == pytest.approx([0.08342, 0.61708, 0.01080, 0.08342], abs=1e-5)
    halves = [(one.adjusted_high - one.adjusted_low) / 2 for one in found]
    assert halves == pytest.approx([2.39398, 2.39398, 2.49771, 2.39398], abs=1e-5)  # of 0.05 / 3 and 0.05 / 4


def test_one_comparison_is_not_adjusted():
    [one] = rulings([Evidence(-1.0, 0.2, 2, 0.0)])
    assert (one.p, one.low, one.high) == (one.adjusted_p, one.adjusted_low, one.adjusted_high)
    assert one.high == pytest.approx(-1.0 + 0.2 * 4.30265, abs=1e-5)
    assert one.p == pytest.approx(2 * t.sf(5, 2))
    assert one.outcome == "better"


def test_the_adjusted_interval_agrees_with_holm():
    rng = np.random.default_rng(0)
    for _ in range(300):
        m = int(rng.integers(1, 9))
        found = rulings([Evidence(2.5 * rng.standard_normal(), 1.0, rng.choice([2, 9, None]), 0.0) for _ in range(m)])
        for one in found:
            leaves_out = not one.adjusted_low <= 0 <= one.adjusted_high
            assert leaves_out == (one.adjusted_p <= 0.05) == (one.outcome in ("better", "worse"))
            assert one.adjusted_low <= one.low <= one.high <= one.adjusted_high


def test_alike_is_the_interval_within_the_margin():
    """Also where it leaves out zero: the margin says that such a difference decides nothing."""
    assert rulings([normal(0.5, 2.47)])[0].outcome == "alike"
    assert rulings([normal(0.5, 2.45)])[0].outcome == "undecided"
    assert rulings([normal(-2.5, 4.47)])[0].outcome == "alike"
    assert rulings([normal(-2.5, 4.45)])[0].outcome == "better"


def test_without_spread_a_difference_is_certain():
    assert [one.outcome for one in rulings([Evidence(0, 0, 2, 0), Evidence(-1, 0, 2, 0.5)])] == ["alike", "better"]
    assert rulings([]) == ()


@pytest.mark.parametrize("seeds", [3, 5])
def test_families_of_equal_arms_hold_a_false_difference_in_at_most_a_twentieth(seeds):
    """12 arms against one baseline whose noise they share; 2,000 families, so 0.0646 is three standard errors above."""
    rng = np.random.default_rng(seeds)
    false = 0
    for _ in range(2000):
        differences = rng.standard_normal((12, seeds)) - rng.standard_normal(seeds)
        false += any(one.outcome != "undecided" for one in rulings(family(differences, 0.0)))
    assert false / 2000 <= 0.0646


@pytest.mark.parametrize("others", ["far", "at the margin"])
def test_arms_that_differ_by_the_margin_are_seldom_alike(others):
    """Also where all are at the margin: at most 0.042 of families held a false `alike` with 4 or 12 arms, 3 or 5 seeds
    and spreads of 0.1 to 1.2 of the margin.
    """
    rng = np.random.default_rng(1)
    truth = np.array([1.0] + [100.0 if others == "far" else 1.0] * 3)
    false = 0
    for _ in range(2000):
        found = rulings(family(truth[:, None] + 0.5 * rng.standard_normal((4, 5)), 1.0))
        false += any(one.outcome == "alike" for one in found)
    assert false <= binom.ppf(0.999, 2000, 0.025 if others == "far" else 0.045)


def family(differences, margin):
    """differences: (arms, seeds)."""
    n = differences.shape[1]
    se = differences.std(axis=1, ddof=1) / n**0.5
    return [Evidence(float(d), float(s), n - 1, margin) for d, s in zip(differences.mean(axis=1), se, strict=True)]


@pytest.mark.parametrize("df", [1, 2, 9, 299])
@pytest.mark.parametrize("comparisons", [1, 12])
def test_the_detectable_difference_has_its_power_by_the_noncentral_t(df, comparisons):
    critical = t.isf(0.025 / comparisons, df)
    assert nct.sf(critical, df, detectable(0.4, df, comparisons) / 0.4) == pytest.approx(0.8, abs=1e-4)
    assert nct.sf(critical, df, detectable(0.4, df, comparisons, 0.95) / 0.4) == pytest.approx(0.95, abs=1e-4)


def test_the_detectable_difference_with_a_known_spread():
    assert detectable(2.0, None, 1) == pytest.approx(2 * (1.959964 + 0.841621), abs=1e-5)
    assert detectable(0.0, None, 1) == 0


def test_the_seeds_needed_find_the_margin():
    """Cohen's (1988) table for a paired t test at 0.05 two-sided and power 0.8: effects 0.5 and 1 need 34 and 10."""
    assert (seeds_needed(2.0, 1.0, 1), seeds_needed(1.0, 1.0, 1)) == (34, 10)
    n = seeds_needed(1.0, 1.0, 4)
    assert detectable(n**-0.5, n - 1, 4) <= 1 < detectable((n - 1) ** -0.5, n - 2, 4)
    assert seeds_needed(0.0, 1.0, 3) == 2
    rng = np.random.default_rng(2)
    draws = 1 + rng.standard_normal((4000, n))
    found = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / n**0.5) > t.isf(0.025 / 4, n - 1)
    assert 0.78 <= found.mean() <= 0.85


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Evidence(float("nan"), 1, 2, 0), "finite"),
        (lambda: Evidence(1, -1, 2, 0), "not negative"),
        (lambda: Evidence(1, 1, 0, 0), "degrees of freedom are at least 1, got 0"),
        (lambda: rulings([], 1.0), "between 0 and 1"),
        (lambda: detectable(-1, 2, 1), "got -1"),
        (lambda: detectable(1, 2, 0), "one or more comparisons"),
        (lambda: detectable(1, 2, 1, 0.01), "got 1 and 0.01"),
        (lambda: seeds_needed(1, 0, 1), "above 0, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
