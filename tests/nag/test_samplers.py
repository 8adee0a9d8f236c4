import math
from dataclasses import replace
from itertools import pairwise
from typing import get_args, get_type_hints

import numpy as np
import pydantic
import pytest
import torch
from scipy.integrate import solve_ivp

from nag import sample
from nag.field import everywhere, levels_of
from nag.interpolants import VP
from nag.registry import METHODS, build, find
from nag.samplers.euler_maruyama import EulerMaruyama
from nag.samplers.fixed_step import levels, march
from tests.nag.gaussian_mixture import GaussianMixture, mixture

STEPPED = [name for name in METHODS["samplers"] if not getattr(find("samplers", name), "adaptive", False)]
DETERMINISTIC = [name for name in STEPPED if find("samplers", name).deterministic]
DIFFUSIONS = get_args(get_type_hints(EulerMaruyama)["diffusion"])
EVERY_SAMPLER = [
    *(build("samplers", name, steps=7) for name in STEPPED),
    EulerMaruyama(7, last_step="euler", last_step_size=0.1),
    EulerMaruyama(7, last_step="none"),
]


def sampled_by(sampler):
    """The mixture on the linear path, or on VP for a sampler that takes no other."""
    field = mixture()
    return replace(field, interpolant=VP()) if sampler.refuses(field.interpolant, field.predicts) else field


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("steps", [0, -3, 10**6, 10**12, 2**63 - 1])
def test_how_many_steps(name, steps):
    """A sampler that could never end, or whose grid no memory holds, is refused when it is described."""
    with pytest.raises(pydantic.ValidationError, match="steps"):
        build("samplers", name, steps=steps)


class Draws:
    """Fixed normal draws, float64, that remember which of them were asked for."""

    def __init__(self, *shape):
        self.shape, self.asked = shape, []

    def __call__(self, k):
        self.asked.append(k)
        return torch.randn(*self.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


def flow(field, x, y, start, end):
    """The probability-flow ODE from `start` to `end` by a solver that is not ours, to 1e-11."""

    def velocity(t, flat):
        state = torch.from_numpy(flat).reshape(x.shape)
        return field(state, torch.full((len(x),), t, dtype=x.dtype), y).numpy().ravel()

    solution = solve_ivp(velocity, (start, end), x.numpy().ravel(), "DOP853", rtol=1e-11, atol=1e-11)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_meet_their_order(name):
    field, noise, y = mixture(), Draws(4, 2, 1, 1), torch.tensor([0, 1, 3, 3])
    exact = flow(field, noise(0), y, 1.0, 0.04)
    errors = []
    for steps in (40, 80, 160):
        sampler = build("samplers", name, steps=steps)
        errors.append(float((march(sampler.solver(), field, y, noise, levels(1.0, 0.04, steps)) - exact).abs().max()))
    order = 3 if name == "unipc" else sampler.order  # UniPC's steps away from the ends; its whole runs are of order 2
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_euler_maruyama_meets_its_weak_order_on_gaussian_data(diffusion):
    """On Gaussian data a run is affine in its draws: unit draws give its mean and variance exactly, without chance."""
    mean, std, end = 0.7, 0.5, 0.04
    field = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([[[[mean]]]], [std], [1.0])))
    errors = []
    for steps in (128, 256, 512):
        draws = torch.zeros(steps + 2, steps + 1, 1, 1, 1, dtype=torch.float64)  # (samples, k, C, H, W)
        draws[1:] = torch.eye(steps + 1)[:, :, None, None, None]
        y = torch.zeros(steps + 2, dtype=torch.int64)
        sampler = EulerMaruyama(steps + 1, diffusion)
        x = march(sampler.solver(), field, y, lambda k, d=draws: d[:, k], levels(1.0, end, steps)).flatten()
        variance = float(((x[1:] - x[0]) ** 2).sum())
        errors.append(abs(variance - ((1 - end) ** 2 * std**2 + end**2)))
        assert float(x[0]) == pytest.approx((1 - end) * mean), "the mean is linear in t, so Euler's steps keep it"
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(sampler.order, abs=0.2)


def test_euler_maruyama_grid_is_that_of_sit():
    def seen(sampler):
        found = []
        sampler(mixture(), torch.tensor([0]), Draws(1, 2, 1, 1), observe=lambda k, t, x: found.append((k, t)))
        assert [k for k, _ in found] == list(range(1, len(found) + 1))
        return [t for _, t in found]

    assert seen(EulerMaruyama(20)) == pytest.approx([*np.linspace(1, 0.04, 20), 0])
    assert seen(EulerMaruyama(2, last_step="euler", last_step_size=0.3)) == pytest.approx([1, 0.3, 0])
    assert seen(EulerMaruyama(20, last_step="none")) == pytest.approx(np.linspace(1, 0, 20))


def test_last_step_mean_follows_the_sde_and_euler_the_ode():
    """From the same state: the euler step moves by v, the mean step by v - D s, and neither draws."""
    field, y, noise = mixture(), torch.tensor([0, 3]), Draws(2, 2, 1, 1)
    states = {}

    def keep(k, t, x):
        states[k] = x

    for last in ("mean", "euler"):
        end = EulerMaruyama(5, "constant", last, 0.2)(field, y, noise, observe=keep)
        x, t = states[5], torch.full((2,), 0.2, dtype=torch.float64)
        v, s = (mixture(kind)(x, t, y) for kind in ("velocity", "score"))
        torch.testing.assert_close(end, x - 0.2 * (v - s if last == "mean" else v))


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_calls_draws_and_observations(sampler):
    field, noise, y, seen = sampled_by(sampler), Draws(3, 2, 1, 1), torch.tensor([0, 1, 3]), []
    x = sampler(field, y, noise, observe=lambda k, t, x: seen.append((k, t, x)))
    assert field.evaluations == sampler.network_calls()
    assert len(noise.asked) == len(set(noise.asked)), "a draw was asked for twice"
    assert sorted(noise.asked) == ([0] if sampler.deterministic else list(range(sampler.steps)))
    assert [k for k, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[0][1] == 1.0
    assert seen[-1][1] == 0.0
    assert seen[-1][2] is x
    assert [t for _, t, _ in seen] == sorted((t for _, t, _ in seen), reverse=True)
    assert torch.equal(x, sampler(field, y, noise)), "watching changed the samples"


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    field, noise, y = sampled_by(sampler), Draws(3, 2, 1, 1), torch.tensor([0, 1, 3])
    together = sample(field, sampler, noise=noise, labels=y)
    alone = [sample(field, sampler, noise=lambda k, i=i: noise(k)[i : i + 1], labels=y[i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    mixed = sample(field, sampler, noise=lambda k: noise(k)[[2, 0]], labels=y[[2, 0]])
    assert torch.equal(together[[2, 0]], mixed)


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("predicts", ["eps", "x0", "score"])
def test_what_the_network_predicts_does_not_matter(name, predicts):
    noise, y, grid = Draws(3, 2, 1, 1), torch.tensor([0, 1, 3]), levels(0.96, 0.04, 6)
    sampler = build("samplers", name, steps=7)
    expected = march(sampler.solver(), mixture(), y, noise, grid)
    torch.testing.assert_close(march(sampler.solver(), mixture(predicts), y, noise, grid), expected)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_samples_are_float32_for_float32_noise(sampler):
    field = sampled_by(sampler)
    field.means, field.stds, field.weights = field.means.float(), field.stds.float(), field.weights.float()
    noise, y = Draws(3, 2, 1, 1), torch.tensor([0, 1, 3])
    single = sampler(field, y, lambda k: noise(k).float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sampler(sampled_by(sampler), y, noise), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("euler", {"steps": 0}),
        ("euler", {"steps": 2.5}),
        ("euler", {"steps": "10"}),
        ("euler", {"steps": True}),
        ("euler", {}),
        ("heun", {"steps": 3, "order": 2}),
        ("euler_maruyama", {"steps": 1}),
        ("euler_maruyama", {"steps": 9, "diffusion": "SBDM"}),
        ("euler_maruyama", {"steps": 9, "last_step": "tweedie"}),
        ("euler_maruyama", {"steps": 9, "last_step_size": 0}),
        ("euler_maruyama", {"steps": 9, "last_step_size": 1}),
        ("euler_maruyama", {"steps": 9, "last_step": "none", "last_step_size": 0.1}),
    ],
)
def test_bad_fields_are_refused(name, fields):
    with pytest.raises(pydantic.ValidationError):
        build("samplers", name, **fields)


def test_labels_are_checked():
    field, noise, euler = mixture(), Draws(2, 2, 1, 1), build("samplers", "euler", steps=2)
    for bad, message in (
        ([0, 4], r"labels must be in \[0, 3\], got 0 to 4"),
        ([-1, 0], "labels must be in"),
        ([0.0, 1.0], "whole numbers"),
        (1, "whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(field, euler, noise=noise, labels=bad)
    expected = sample(field, euler, noise=noise, labels=torch.tensor([0, 3]))
    assert torch.equal(sample(field, euler, noise=noise, labels=np.array([0, 3])), expected)


def test_the_level_of_all_samples_is_known_without_asking_the_device():
    t = everywhere(0.3, torch.zeros(3, 1, 2, 2))
    assert t.tolist() == [levels_of(t)[0]] * 3
    assert levels_of(t[:2]) == t[:2].tolist()
    assert levels_of(t + 0.1) == (t + 0.1).tolist()
    assert levels_of(torch.full_like(t, 0.5)) == [0.5] * 3
