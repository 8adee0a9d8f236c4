"""dpmpp_2m and unipc against fine references and diffusers' schedulers; dopri5 against its tolerance."""

import math
import sys
from itertools import pairwise

import pydantic
import pytest
import torch

from nag import sample
from nag.field import Calls
from nag.interpolants import GVP, VP, Linear
from nag.registry import build
from nag.samplers.dopri5 import Dopri5
from nag.samplers.dpmpp_2m import DPMpp2M
from nag.samplers.fixed_step import levels, march
from nag.samplers.unipc import UniPC
from tests.nag.gaussian_mixture import assert_moments, exact_flow, mixture

Y = torch.tensor([0, 1, 3, 3])
FAST = [DPMpp2M, UniPC]


def noise(k, n=4):
    assert k == 0, "a solver of the ODE draws nothing but the initial state"
    return torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("path", "predicts"), [(Linear(), "velocity"), (Linear(), "x0"), (VP(), "eps"), (VP(), "x0")])
@pytest.mark.parametrize(("cls", "order"), [(DPMpp2M, 2), (UniPC, 3)])
def test_their_steps_meet_their_order_away_from_the_last(cls, order, path, predicts):
    """Where the levels are many: on VP a step near t = 1 is a long one in lambda."""
    field = mixture(predicts, path)
    exact = exact_flow(field, noise(0), Y, 1.0, 0.04)
    counts = (200, 400)
    runs = [march(cls(steps=n).solver(), field, Y, noise, levels(1.0, 0.04, n)) for n in counts]
    errors = [float((run - exact).abs().max()) for run in runs]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("cls", "few", "many"), [(DPMpp2M, (1.1, 1.3), (1.6, 1.8)), (UniPC, (1.3, 1.9), (1.9, 2.1))], ids=["dpmpp", "unipc"]
)
def test_on_their_own_grid_the_first_and_last_step_cost_order(cls, few, many):
    """From pure noise to data, as they are used: what their docstrings say."""
    field = mixture()
    exact = exact_flow(field, noise(0), Y, 1.0, 0.0)
    errors = [float((cls(steps=n)(field, Y, noise) - exact).abs().max()) for n in (10, 20, 40, 80, 160, 320)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(few[0] <= order <= few[1] for order in orders[:2])
    assert all(many[0] <= order <= many[1] for order in orders[2:])
    assert orders[-1] == pytest.approx(cls.order, abs=0.25)


@pytest.mark.parametrize(("path", "predicts"), [(Linear(), "velocity"), (VP(), "eps"), (VP(), "velocity")])
@pytest.mark.parametrize("cls", FAST)
def test_few_steps_beat_ddim(cls, path, predicts):
    field = mixture(predicts, path)
    exact = exact_flow(field, noise(0), Y, 1.0, 0.0)
    for steps in (20, 50):
        ours, theirs = (
            solver(field, Y, noise) for solver in (cls(steps=steps), build("samplers", "ddim", steps=steps))
        )
        assert (ours - exact).square().mean() < 0.5 * (theirs - exact).square().mean()


@pytest.mark.parametrize("cls", FAST)
def test_the_ends_are_exact(cls):
    """One step is the predicted x_0 of pure noise; a run asks exactly at its levels, not at t = 0, and ends in x_0."""
    x, asked = noise(0), []
    assert torch.equal(cls(steps=1)(mixture(), Y, noise), x - mixture()(x, torch.ones(4, dtype=x.dtype), Y))
    field = mixture()

    class Spy:
        def __getattr__(self, name):
            return getattr(field, name)

        def __call__(self, x, t, y):
            asked.append(t.unique().item())
            self.last = (x, t)
            return field(x, t, y)

    spy = Spy()
    out = cls(steps=10)(spy, Y, noise)
    assert asked == levels(1.0, 0.0, 10)[:-1]
    x, t = spy.last
    torch.testing.assert_close(out, mixture("x0")(x, t, Y))


@pytest.mark.parametrize("cls", FAST)
def test_on_gaussian_data_of_one_point_any_number_of_steps_is_exact(cls):
    field = mixture()
    field.stds = torch.full((3,), 1e-9, dtype=torch.float64)
    x = cls(steps=3)(field, Y.clamp(max=2), noise)
    torch.testing.assert_close(x, field.means[Y.clamp(max=2)], atol=1e-7, rtol=0)


def test_what_cannot_work_is_refused():
    for cls in FAST:
        assert cls(steps=10).refuses(Linear(), "velocity") is None
        assert cls(steps=10).refuses(VP(), "eps") is None
        assert cls(steps=2000).refuses(Linear(), "velocity") is None
        assert "not gvp" in cls(steps=10).refuses(GVP(), "velocity")
        assert "alpha is 0" in cls(steps=10).refuses(Linear(), "eps")
        assert "was not trained" in cls(steps=1001).refuses(VP(), "eps")
    assert Dopri5().refuses(GVP(), "velocity") is None
    assert Dopri5().refuses(VP(), "eps") is None
    assert "alpha is 0" in Dopri5().refuses(GVP(), "score")
    assert "sigma is 0" in Dopri5().refuses(Linear(), "x0")
    with pytest.raises(ValueError, match=r"DPMpp2M cannot sample this network: .*alpha is 0"):
        sample(mixture("eps"), DPMpp2M(steps=3), noise=noise, labels=Y)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dpmpp_2m", {}),
        ("dpmpp_2m", {"steps": 0}),
        ("unipc", {"steps": 2.5}),
        ("unipc", {"steps": 3, "order": 2}),
        ("dopri5", {"atol": 0}),
        ("dopri5", {"rtol": -1e-3}),
        ("dopri5", {"steps": 10}),
    ],
)
def test_bad_fields_are_refused(name, fields):
    with pytest.raises(pydantic.ValidationError):
        build("samplers", name, **fields)


scheduler_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' schedulers, of numpy


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def by_scheduler(scheduler, field, grid):
    """A run of diffusers' scheduler whose i-th model call is at our level grid[i]."""
    x = noise(0).float()
    for t, step in zip(grid, scheduler.timesteps, strict=True):
        prediction = field(x.double(), torch.full((4,), t, dtype=torch.float64), Y)
        x = scheduler.step(prediction.float(), step, x).prev_sample
    return x


@scheduler_warns
@pytest.mark.parametrize("steps", [5, 10, 30])
@pytest.mark.parametrize("cls", FAST)
def test_on_trained_betas_it_is_diffusers(diffusers, cls, steps):
    name = {DPMpp2M: "DPMSolverMultistepScheduler", UniPC: "UniPCMultistepScheduler"}[cls]
    scheduler = getattr(diffusers, name)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    scheduler.set_timesteps(steps)
    grid = [(int(level) + 1) / 1000 for level in scheduler.timesteps]
    field = mixture("eps", VP())
    ours = march(cls(steps=steps).solver(), field, Y, noise, [*grid, 0.0])
    torch.testing.assert_close(ours.float(), by_scheduler(scheduler, field, grid), atol=2e-4, rtol=2e-4)


@scheduler_warns
@pytest.mark.parametrize("steps", [5, 10, 30])
@pytest.mark.parametrize("cls", FAST)
def test_on_the_linear_path_it_is_diffusers(diffusers, cls, steps):
    """diffusers' flow levels start at 0.999, and are truncated for the network; here it is told them as they are."""
    name = {DPMpp2M: "DPMSolverMultistepScheduler", UniPC: "UniPCMultistepScheduler"}[cls]
    scheduler = getattr(diffusers, name)(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(steps)
    grid = [float(sigma) for sigma in scheduler.sigmas]
    assert grid[0] < 1.0
    assert grid[-1] == 0.0
    ours = march(cls(steps=steps).solver(), mixture(), Y, noise, grid)
    torch.testing.assert_close(ours.float(), by_scheduler(scheduler, mixture(), grid[:-1]), atol=2e-4, rtol=2e-4)


@scheduler_warns
@pytest.mark.parametrize("steps", [5, 10, 30])
def test_from_pure_noise_it_is_diffusers_with_our_levels(diffusers, steps):
    """Its 2M formulas hold in the limit lambda = -inf; its UniPC divides infinities there, so ours takes the limit."""
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(steps)
    grid = levels(1.0, 0.0, steps)
    scheduler.sigmas = torch.tensor(grid, dtype=torch.float64)
    ours = DPMpp2M(steps=steps)(mixture(), Y, noise)
    torch.testing.assert_close(ours.float(), by_scheduler(scheduler, mixture(), grid[:-1]), atol=1e-5, rtol=1e-5)


def test_unipc_from_pure_noise_is_the_limit_of_starting_near_it():
    exact = UniPC(steps=8)(mixture(), Y, noise)
    distances = []
    for gap in (1e-4, 1e-6, 1e-8):
        near = march(UniPC(steps=8).solver(), mixture(), Y, noise, [1 - gap, *levels(1.0, 0.0, 8)[1:]])
        distances.append(float((near - exact).abs().max()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.02  # a slope in lambda vanishes as slowly as 1 / log(gap)


@pytest.fixture(scope="module")
def torchdiffeq():
    return pytest.importorskip("torchdiffeq")


@pytest.mark.parametrize(("path", "predicts"), [(Linear(), "velocity"), (GVP(), "velocity"), (VP(), "eps")])
def test_the_error_of_dopri5_falls_with_its_tolerance(torchdiffeq, path, predicts):
    field = mixture(predicts, path)
    exact = exact_flow(field, noise(0), Y, 1.0, 0.0)
    errors, calls = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        counter = Calls()
        x = Dopri5(atol=tolerance, rtol=tolerance)(counter.counted(field), Y, noise)
        errors.append(float((x - exact).abs().max()))
        calls.append(counter.made / len(x))
    if path == VP():  # the last thousandth is one step, at every tolerance
        assert errors[0] > errors[1]
        assert errors[2] < 5e-4
    else:
        assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert calls[0] < calls[1] < calls[2]


def test_dopri5_counts_asks_and_watches(torchdiffeq):
    field, counter, seen, asked = mixture(), Calls(), [], []
    counted = counter.counted(field)

    class Spy:
        def __getattr__(self, name):
            return getattr(counted, name)

        def __call__(self, x, t, y):
            asked.append(t.unique().item())
            return counted(x, t, y)

    x = sample(Spy(), Dopri5(), noise=noise, labels=Y)
    assert counter.made == 4 * field.evaluations == 4 * len(asked)
    assert Dopri5().network_calls() is None
    assert min(asked) == pytest.approx(0.0, abs=1e-300)
    assert max(asked) == 1.0
    assert torch.equal(x, Dopri5()(field, Y, noise, observe=lambda *what: seen.append(what)))
    ((k, t, last),) = seen
    assert (k, t) == (1, 0.0)
    torch.testing.assert_close(last, x)


def test_dopri5_says_what_it_lacks(torchdiffeq, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            return getattr(mixture(), name)

        def __call__(self, x, t, y):
            return x * (math.nan if t[0] < 0.5 else 1.0)

    with pytest.raises(ArithmeticError, match="dopri5 gave up"):
        Dopri5()(Broken(), Y, noise)
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match="needs torchdiffeq: pip install torchdiffeq"):
        Dopri5()(mixture(), Y, noise)


@pytest.mark.parametrize("sampler", [DPMpp2M(steps=25), UniPC(steps=25), Dopri5(1e-5, 1e-5)], ids=repr)
def test_a_gaussian_mixture_is_sampled(sampler):
    """Moments of 4,000 samples of the whole mixture, within Monte-Carlo error."""
    if isinstance(sampler, Dopri5):
        pytest.importorskip("torchdiffeq")
    field, n = mixture(), 4000
    assert_moments(sampler(field, torch.full((n,), 3), lambda k: noise(k, n)), field, 3)
