import itertools
import math

import numpy as np
import pytest
import torch

from nag.interpolants import GVP, PREDICTIONS, VP, convert, posterior, target
from nag.registry import METHODS, build


class Trigonometric:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): not linear, so that no derivative is 1 by accident."""

    def alpha(self, t):
        return (torch.as_tensor(t, dtype=torch.float64) * math.pi / 2).cos()

    def sigma(self, t):
        return (torch.as_tensor(t, dtype=torch.float64) * math.pi / 2).sin()

    def dalpha(self, t):
        return -math.pi / 2 * self.sigma(t)

    def dsigma(self, t):
        return math.pi / 2 * self.alpha(t)


INTERPOLANTS = [*(build("interpolants", name) for name in METHODS["interpolants"]), Trigonometric()]


def pair():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=generator) for _ in range(2))


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda i: type(i).__name__)
def test_derivatives_and_ends(interpolant):
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    for f, df in ((interpolant.alpha, interpolant.dalpha), (interpolant.sigma, interpolant.dsigma)):
        near = 1e-6 if isinstance(interpolant, VP) else 1e-8  # its slopes jump at these levels
        torch.testing.assert_close((f(t + h) - f(t - h)) / (2 * h), df(t), atol=near, rtol=near)
        assert float(f(0.3)) == pytest.approx(float(f(torch.tensor(0.3, dtype=torch.float64))))
    left = 6.353e-3 if isinstance(interpolant, VP) else 0  # of the data at t = 1
    assert [float(interpolant.alpha(t)) for t in (0.0, 1.0)] == pytest.approx([1, left], abs=1e-6)
    assert [float(interpolant.sigma(t)) for t in (0.0, 1.0)] == pytest.approx([0, math.sqrt(1 - left**2)], abs=1e-6)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize(("source", "goal"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_every_prediction_converts_to_every_other(interpolant, source, goal):
    x0, eps = pair()
    t = torch.tensor([0.04, 0.3, 0.5, 0.9, 0.97], dtype=torch.float64)
    level = t.reshape(-1, 1, 1, 1)
    x = interpolant.alpha(level) * x0 + interpolant.sigma(level) * eps
    given, wanted = (target(kind, x0, eps, t, interpolant) for kind in (source, goal))
    torch.testing.assert_close(convert(given, source, goal, x, t, interpolant), wanted)
    one = convert(given[2:3], source, goal, x[2:3], 0.5, interpolant)  # one level, as a number
    torch.testing.assert_close(one, wanted[2:3])


@pytest.mark.parametrize(("source", "goal"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_weights_that_sum_to_one_mean_the_same_for_every_kind(source, goal):
    """Why guidance may mix whatever the network predicts."""
    linear, (a, b), x = build("interpolants", "linear"), pair(), torch.ones(5, 2, 3, 3, dtype=torch.float64)
    mixed = convert(3.5 * a - 2.5 * b, source, goal, x, 0.4, linear)
    apart = 3.5 * convert(a, source, goal, x, 0.4, linear) - 2.5 * convert(b, source, goal, x, 0.4, linear)
    torch.testing.assert_close(mixed, apart)


def test_velocity_to_score_holds_at_pure_noise():
    linear, (v, x) = build("interpolants", "linear"), pair()
    torch.testing.assert_close(convert(v, "velocity", "score", x, 1.0, linear), -x)


@pytest.mark.parametrize("name", ["linear", "gvp"])
@pytest.mark.parametrize(("source", "goal", "t"), [("eps", "velocity", 1.0), ("velocity", "score", 0.0)])
def test_what_has_no_value_is_refused(name, source, goal, t):
    v, x = pair()
    with pytest.raises(ValueError, match="cannot be converted where"):
        convert(v, source, goal, x, t, build("interpolants", name))


def test_gvp_ends_exactly():
    """Not at 6e-17, by which a prediction at t = 1 would be divided."""
    assert GVP().alpha(1.0) == 0.0
    assert float(GVP().alpha(torch.tensor(1.0))) == 0.0


def trained_levels():
    """alpha-bar of DDPM, as Ho et al. define it."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))


def test_vp_is_the_trained_betas_at_their_levels():
    expected, vp = trained_levels(), VP()
    np.testing.assert_allclose([vp.alpha((j + 1) / 1000) ** 2 for j in range(1000)], expected, rtol=1e-12)
    np.testing.assert_allclose([vp.sigma((j + 1) / 1000) ** 2 for j in range(1000)], 1 - expected, rtol=1e-9)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    np.testing.assert_allclose(vp.alpha(t).numpy() ** 2, expected, rtol=1e-12)
    np.testing.assert_allclose(vp.sigma(t.float()).numpy() ** 2, 1 - expected, rtol=2e-6)
    assert vp.alpha(t.float()).dtype == torch.float32


def test_vp_is_log_linear_between_levels():
    vp, bars = VP(), np.concatenate([[1.0], trained_levels()])
    for j in (0, 1, 570, 999):
        for share in (0.25, 0.5, 0.9):
            expected = bars[j] ** (1 - share) * bars[j + 1] ** share
            assert vp.alpha((j + share) / 1000) ** 2 == pytest.approx(expected, rel=1e-12)


def test_vp_slopes_at_a_level_are_the_mean_of_both_sides():
    """In float32 too, where (j + 1) / 1000 is rounded to either side."""
    vp = VP()

    def slope(t):
        return vp.dalpha(t) / vp.alpha(t)

    for j in range(1, 1000):
        expected = (slope((j - 0.5) / 1000) + slope((j + 0.5) / 1000)) / 2
        assert slope(j / 1000) == pytest.approx(expected, rel=1e-9)
        assert float(slope(torch.tensor(j / 1000))) == pytest.approx(expected, rel=1e-5)
    assert slope(1.0) == slope(0.9995)


def test_vp_at_data():
    vp = VP()
    assert (vp.alpha(0.0), vp.sigma(0.0), vp.dsigma(0.0)) == (1.0, 0.0, math.inf)
    assert math.copysign(1, vp.sigma(0.0)) == 1
    assert vp.dsigma(torch.zeros(1)).isinf().all()


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.4), (0.351, 0.35), (0.5, 0.01)])
def test_posterior_is_that_of_gaussians(interpolant, t, s):
    """By conditioning (x_s, x_t) given x_0, of which x_t = ratio x_s + noise makes the covariance."""
    q, x0, x = posterior(interpolant, t, s), 0.7, -1.3
    a_t, a_s, v_t, v_s = (float(f(u)) for f in (interpolant.alpha, interpolant.sigma) for u in (t, s))
    v_t, v_s, ratio = v_t**2, v_s**2, a_t / a_s
    gain = ratio * v_s / v_t
    assert float(q.from_x0 * x0 + q.from_x * x) == pytest.approx(a_s * x0 + gain * (x - a_t * x0), rel=1e-9)
    assert float(q.variance) == pytest.approx(v_s - gain * ratio * v_s, rel=1e-6)
    assert float(q.forward) == pytest.approx(v_t - ratio**2 * v_s, rel=1e-6)


def test_posterior_from_pure_noise_and_to_data():
    from_noise = posterior(GVP(), 1.0, 0.5)
    assert tuple(from_noise) == pytest.approx((math.cos(math.pi / 4), 0, 0.5, 1))
    to_data = posterior(VP(), 0.3, 0.0)
    assert tuple(to_data)[:3] == pytest.approx((1, 0, 0))


def test_unknown_kind_is_refused():
    v, x = pair()
    with pytest.raises(ValueError, match="unknown prediction 'noise'; known: velocity, eps, x0, score"):
        convert(v, "noise", "velocity", x, 0.5, build("interpolants", "linear"))
    with pytest.raises(ValueError, match="unknown prediction"):
        target("noise", v, x, 0.5, build("interpolants", "linear"))
