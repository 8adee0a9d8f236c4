import itertools
import math

import pytest
import torch

from nag.interpolants import PREDICTIONS, convert, target
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
        torch.testing.assert_close((f(t + h) - f(t - h)) / (2 * h), df(t), atol=1e-8, rtol=1e-8)
        assert float(f(0.3)) == pytest.approx(float(f(torch.tensor(0.3, dtype=torch.float64))))
    assert [float(interpolant.alpha(t)) for t in (0.0, 1.0)] == pytest.approx([1, 0])
    assert [float(interpolant.sigma(t)) for t in (0.0, 1.0)] == pytest.approx([0, 1])


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


@pytest.mark.parametrize(("source", "goal", "t"), [("eps", "velocity", 1.0), ("velocity", "score", 0.0)])
def test_what_has_no_value_is_refused(source, goal, t):
    v, x = pair()
    with pytest.raises(ValueError, match="cannot be converted where"):
        convert(v, source, goal, x, t, build("interpolants", "linear"))


def test_unknown_kind_is_refused():
    v, x = pair()
    with pytest.raises(ValueError, match="unknown prediction 'noise'; known: velocity, eps, x0, score"):
        convert(v, "noise", "velocity", x, 0.5, build("interpolants", "linear"))
    with pytest.raises(ValueError, match="unknown prediction"):
        target("noise", v, x, 0.5, build("interpolants", "linear"))
