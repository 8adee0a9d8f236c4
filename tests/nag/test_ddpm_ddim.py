"""DDPM and DDIM: exact variances, order, moments, diffusers' schedulers, and the levels they stand on."""

import dataclasses
import math
from itertools import pairwise

import pydantic
import pytest
import torch

from nag import sample
from nag.interpolants import GVP, VP, Linear, posterior
from nag.registry import build
from nag.samplers.ddim import DDIM
from nag.samplers.ddpm import DDPM
from nag.samplers.fixed_step import levels, march, respaced
from tests.nag.gaussian_mixture import GaussianMixture, assert_moments, exact_flow, mixture

Y = torch.tensor([0, 1, 3, 3])


def draws(n=4):
    """k -> (n, 2, 1, 1) normal draws, float64, the same for each k."""
    return lambda k: torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


def seen(sampler, field):
    """The levels at which `observe` is called, and which draws were asked for."""
    found, asked = [], []
    noise = draws()

    def draw(k):
        asked.append(k)
        return noise(k)

    sampler(field, Y, draw, observe=lambda k, t, x: found.append(t))
    return found, asked


@dataclasses.dataclass
class WithVariance:
    """A mixture's field that says a variance too: `value(t)` in all of the last C channels."""

    exact: GaussianMixture
    value: object

    def __getattr__(self, name):
        return getattr(self.exact, name)

    def __call__(self, x, t, y):
        v = torch.full_like(x, self.value(float(t[0])))
        return torch.cat([self.exact(x, t, y), v], dim=1)


@pytest.mark.parametrize(("path", "predicts"), [(Linear(), "velocity"), (GVP(), "velocity"), (VP(), "eps")])
def test_ddim_meets_its_order(path, predicts):
    field, noise = mixture(predicts, path), draws()
    exact = exact_flow(field, noise(0), Y, 1.0, 0.04)
    counts = (160, 320, 640) if isinstance(path, VP) else (40, 80, 160)  # VP's steps near t = 1 are long ones
    runs = [march(DDIM(n), field, Y, noise, levels(1.0, 0.04, n)) for n in counts]
    for coarse, fine in pairwise([float((run - exact).abs().max()) for run in runs]):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("sampler", "path", "predicts"),
    [
        (DDPM(500), VP(), "eps"),
        (DDPM(500), VP(), "velocity"),
        (DDIM(300), VP(), "eps"),
        (DDIM(500, eta=1.0), VP(), "eps"),
        (DDIM(300), Linear(), "velocity"),
        (DDIM(300, eta=0.5), Linear(), "velocity"),
        (DDIM(300, eta=1.0), GVP(), "velocity"),
        (DDIM(300), Linear(), "x0"),
    ],
    ids=repr,
)
def test_they_sample_a_mixture(sampler, path, predicts):
    field = mixture(predicts, path)
    x = sample(field, sampler, noise=draws(4000), labels=torch.full((4000,), 3))
    assert_moments(x, field, 3)


def test_a_learned_variance_is_exact_in_few_steps():
    """Of Gaussian data the step back is Gaussian: with its variance learned, ten steps have no error of variance.

    A run is affine in its draws: unit draws give the variance without chance.
    """
    std, steps, vp = 0.5, 10, VP()
    grid = respaced(steps)[:-1]

    def learned(t):
        t_next = grid[min(range(len(grid)), key=lambda i: abs(grid[i] - t)) + 1]
        q, alpha, sigma = posterior(vp, t, t_next), vp.alpha(t), vp.sigma(t)
        of_x0 = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)  # Var[x_0 | x_t]
        share = math.log((q.variance + q.from_x0**2 * of_x0) / q.variance) / math.log(q.forward / q.variance)
        return 2 * share - 1

    exact = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([[[[0.0]]]], [std], [1.0])), "eps", vp)
    unit = torch.eye(steps)[:, :, None, None, None].double()  # (samples, k, C, H, W)
    y = torch.zeros(steps, dtype=torch.int64)
    end = {
        name: march(DDPM(steps), field, y, lambda k: unit[:, k], grid).square().sum()
        for name, field in (("learned", WithVariance(exact, learned)), ("fixed", exact))
    }
    t = grid[-1]
    expected = vp.alpha(t) ** 2 * std**2 + vp.sigma(t) ** 2
    assert float(end["learned"]) == pytest.approx(expected, rel=1e-3)
    assert float(end["fixed"]) < 0.9 * expected


def test_without_a_variance_it_is_the_lower_bound():
    plain = mixture("eps", VP())
    lower, upper = (DDPM(8)(WithVariance(plain, lambda t, v=v: v), Y, draws()) for v in (-1.0, 1.0))
    torch.testing.assert_close(DDPM(8)(plain, Y, draws()), lower)
    assert (lower - upper).abs().max() > 0.01


def test_ddim_with_eta_one_takes_the_ancestral_step():
    field = mixture("eps", VP())
    torch.testing.assert_close(DDIM(12, eta=1.0)(field, Y, draws()), DDPM(12)(field, Y, draws()))


@pytest.mark.parametrize("sampler", [DDPM(20), DDIM(20), DDIM(20, eta=0.3)], ids=repr)
def test_on_vp_the_levels_are_respaced(sampler):
    found, asked = seen(sampler, mixture("eps", VP()))
    expected = [(round(i * 999 / 19) + 1) / 1000 for i in range(19, -1, -1)]
    assert found == [*expected, 0.0]
    assert found[0] == 1.0
    assert found[-2] == 1 / 1000
    assert sorted(asked) == ([0] if sampler.deterministic else list(range(20)))


def test_respacing_is_the_official_one_at_every_number_of_steps():
    """The levels of `space_timesteps(1000, [steps])` by its own description: from 0, the stride added up, rounded."""
    unlike = []
    for steps in range(2, 1000):
        official, place = set(), 0.0
        for _ in range(steps):
            official.add(round(place))
            place += 999 / (steps - 1)
        assert respaced(steps) == [(level + 1) / 1000 for level in sorted(official, reverse=True)] + [0.0], steps
        if sorted(official) != [round(i * 999 / (steps - 1)) for i in range(steps)]:
            unlike.append(steps)
    assert {21, 35, 45, 105} < set(unlike)
    assert len(unlike) == 283
    assert 500 / 1000 in respaced(35)  # level 499: 17 times the stride is 499.5, added up a little less


def test_other_levels():
    assert seen(DDIM(4), mixture())[0] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert respaced(1) == [1.0, 0.0]
    assert respaced(1000) == [(j + 1) / 1000 for j in range(999, -1, -1)] + [0.0]
    x = DDPM(1)(mixture("eps", VP()), Y, draws())
    torch.testing.assert_close(x, mixture("x0", VP())(draws()(0), torch.ones(4, dtype=torch.float64), Y))


def test_ddpm_refuses_other_paths():
    for path in (Linear(), GVP()):
        assert "interpolant vp" in DDPM(5).refuses(path, "velocity")
        with pytest.raises(ValueError, match="ddim with eta 1"):
            DDPM(5)(mixture("velocity", path), Y, draws())
    assert all(DDPM(5).refuses(VP(), kind) is None for kind in ("velocity", "eps", "x0", "score"))


def test_ddim_refuses_what_says_nothing_at_pure_noise():
    for path in (Linear(), GVP()):
        for kind in ("eps", "score"):
            assert "alpha is 0" in DDIM(5).refuses(path, kind)
        assert all(DDIM(5).refuses(path, kind) is None for kind in ("velocity", "x0"))
    assert all(DDIM(5).refuses(VP(), kind) is None for kind in ("velocity", "eps", "x0", "score"))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ddpm", {"steps": 0}),
        ("ddpm", {"steps": 1001}),
        ("ddpm", {"steps": 10, "eta": 1}),
        ("ddim", {"steps": 0}),
        ("ddim", {"steps": 1001}),
        ("ddim", {"steps": 10, "eta": -0.1}),
        ("ddim", {"steps": 10, "eta": 1.1}),
    ],
)
def test_bad_fields_are_refused(name, fields):
    with pytest.raises(pydantic.ValidationError):
        build("samplers", name, **fields)


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [6, 20, 250])
def test_ddpm_is_diffusers(diffusers, learned, steps):
    field, y = mixture("eps", VP()), torch.tensor([0, 1, 3, 3])
    if learned:
        field = WithVariance(field, lambda t: 0.6 - t)
    kind = "learned_range" if learned else "fixed_small"
    scheduler = diffusers.DDPMScheduler(**BETAS, variance_type=kind, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    x = draws()(0)
    for level in scheduler.timesteps:
        out = field(x, torch.full((4,), (int(level) + 1) / 1000, dtype=torch.float64), y)
        x = scheduler.step(out, level, x, generator=generator).prev_sample

    again = torch.Generator().manual_seed(7)  # asked for in the order of the steps
    ours = DDPM(steps)(field, y, lambda k: torch.randn(x.shape, dtype=x.dtype, generator=again) if k else draws()(0))
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-4)  # diffusers' betas are float32


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_is_diffusers(diffusers, eta):
    field, noise = mixture("eps", VP()), draws()
    scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    x = noise(0)
    for k, level in enumerate(scheduler.timesteps, start=1):
        out = field(x, torch.full((4,), (int(level) + 1) / 1000, dtype=torch.float64), Y)
        x = scheduler.step(out, level, x, eta=eta, variance_noise=noise(k)).prev_sample
    grid = [(int(level) + 1) / 1000 for level in scheduler.timesteps] + [0.0]
    torch.testing.assert_close(march(DDIM(20, eta), field, Y, noise, grid), x, atol=1e-4, rtol=1e-4)
