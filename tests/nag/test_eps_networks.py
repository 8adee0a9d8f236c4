"""Solvers of ODE and SDE on networks of trained betas (VP, eps), and what they refuse."""

import math
from itertools import pairwise

import pytest
import torch

from nag import sample
from nag.interpolants import GVP, PREDICTIONS, VP, Linear
from nag.registry import build
from nag.samplers.euler import Euler
from nag.samplers.euler_maruyama import EulerMaruyama
from nag.samplers.fixed_step import levels, march
from nag.samplers.heun import Heun
from tests.nag.gaussian_mixture import assert_moments, exact_flow, mixture

Y = torch.tensor([0, 1, 3, 3])


def draws(n=4):
    return lambda k: torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


@pytest.mark.parametrize("cls", [Euler, Heun])
def test_odes_stop_at_the_first_level_and_return_x0(cls):
    field, seen = mixture("eps", VP()), []
    x = cls(20)(field, Y, draws(), observe=lambda k, t, x: seen.append((k, t, x)))
    assert [k for k, _, _ in seen] == list(range(1, 22))
    assert [t for _, t, _ in seen] == pytest.approx([*(1 - 0.999 * k / 19 for k in range(20)), 0])
    assert field.evaluations == (20 if cls is Euler else 2 * 20 - 1)
    last = seen[-2][2]
    torch.testing.assert_close(x, mixture("x0", VP())(last, torch.full((4,), 0.001, dtype=torch.float64), Y))


@pytest.mark.parametrize("cls", [Euler, Heun])
def test_one_step_is_x0_at_pure_noise(cls):
    x = cls(1)(mixture("eps", VP()), Y, draws())
    torch.testing.assert_close(x, mixture("x0", VP())(draws()(0), torch.ones(4, dtype=torch.float64), Y))


@pytest.mark.parametrize("path", [GVP(), VP()], ids=repr)
@pytest.mark.parametrize("cls", [Euler, Heun])
def test_odes_meet_their_order_on_other_paths(cls, path):
    field, noise = mixture("velocity" if path == GVP() else "eps", path), draws()
    exact = exact_flow(field, noise(0), Y, 1.0, 0.04)
    errors = []
    for steps in (40, 80, 160):
        errors.append(float((march(cls(steps), field, Y, noise, levels(1.0, 0.04, steps)) - exact).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(cls.order, abs=0.25)


@pytest.mark.parametrize(
    "sampler", [Euler(300), Heun(100), EulerMaruyama(400), EulerMaruyama(600, last_step="none")], ids=repr
)
def test_they_sample_a_mixture(sampler):
    field = mixture("eps", VP())
    x = sample(field, sampler, noise=draws(3000), labels=torch.full((3000,), 3))
    assert_moments(x, field, 3)


@pytest.mark.parametrize("path", [Linear(), GVP()], ids=repr)
def test_what_says_nothing_is_refused(path):
    """Where alpha is 0, eps and score say nothing about the data; where sigma is 0, x0 says nothing about eps."""
    for sampler in (Euler(5), Heun(5), EulerMaruyama(5)):
        assert sampler.refuses(path, "velocity") is None
        for kind in ("eps", "score"):
            assert "at t = 1, where alpha is 0" in sampler.refuses(path, kind)
            with pytest.raises(ValueError, match="alpha"):
                sampler(mixture(kind, path), Y, draws())
    assert Euler(5).refuses(path, "x0") is None
    assert EulerMaruyama(5).refuses(path, "x0") is None
    assert "at t = 0, where sigma is 0" in Heun(5).refuses(path, "x0")
    with pytest.raises(ValueError, match="sigma"):
        Heun(5)(mixture("x0", path), Y, draws())


@pytest.mark.parametrize("name", ["euler", "heun", "euler_maruyama", "ddpm", "ddim"])
@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_what_is_not_refused_samples(name, path, kind):
    sampler = build("samplers", name, steps=6)
    if sampler.refuses(path, kind) is None:
        assert sampler(mixture(kind, path), Y, draws()).isfinite().all()


def test_calls_below_the_first_level_are_refused():
    vp, linear = VP(), Linear()
    for last in (EulerMaruyama(20, last_step_size=1e-4), EulerMaruyama(1500, last_step="none")):
        assert "below t = 0.001" in last.refuses(vp, "eps")
        assert last.refuses(linear, "velocity") is None
    assert EulerMaruyama(20, last_step_size=0.001).refuses(vp, "eps") is None
    assert EulerMaruyama(1001, last_step="none").refuses(vp, "eps") is None
