"""Noise level correction: its closed form on Gaussian data, and a small network that learns an injected error."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from nag.datasets.dataset import ArraySplit
from nag.estimator import Residual
from nag.field import Calls
from nag.guidance.cfg import CFG
from nag.guidance.dog import DoG
from nag.guidance.nag import NAG
from nag.guidance.noise_level_correction import NoiseLevelCorrection
from nag.guidance.price import price
from nag.guidance.terms import Interval
from nag.guidance.time_shift import TimeShift
from nag.interpolants import GVP, VP, Linear, at_ratio, convert
from nag.losses import Batch
from nag.models.noise_level_residual import NoiseLevelResidual
from nag.registry import build
from nag.sampling import guided
from nag.training import Training, train
from tests.nag.gaussian_mixture import mixture
from tests.nag.networks import SHAPE, network

PATHS = [Linear(), GVP(), VP()]


@dataclass(frozen=True)
class Known:
    """A residual that is known: r = `share` everywhere."""

    share_of: float
    interpolant: object
    shape: tuple = (2, 1, 1)

    def share(self, x, t):
        return torch.full_like(t, self.share_of)


def noisier(field, share, level=0.6, n=4):
    """States of one Gaussian class whose noise is 1 + share times that of the level."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    path, t, y = field.interpolant, torch.full((n,), level, dtype=torch.float64), torch.arange(n) % 3
    x0 = field.means[y] + field.stds[y].view(-1, 1, 1, 1) * x0
    return path.alpha(level) * x0 + path.sigma(level) * (1 + share) * eps, t, y


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_the_level_of_a_ratio(path):
    t = torch.linspace(0.01, 0.99, 199, dtype=torch.float64)
    torch.testing.assert_close(at_ratio(path, path.sigma(t) / path.alpha(t)), t, rtol=0, atol=1e-6)
    assert at_ratio(path, torch.tensor([1e9])).item() == 1


@pytest.mark.parametrize("predicts", ["velocity", "eps", "x0", "score"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("share", [-0.3, 0.4])
def test_with_the_true_residual_x0_is_the_posterior_mean(path, predicts, share):
    """Noise of (1 + r) sigma: E[x_0 | x] of a Gaussian class with that noise, which the network alone gets wrong."""
    field = mixture(predicts, path)
    x, t, y = noisier(field, share)
    alpha, sigma = path.alpha(0.6), path.sigma(0.6) * (1 + share)
    mean, variance = field.means[y], (field.stds[y] ** 2).view(-1, 1, 1, 1)
    exact = mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)
    found = guided(field, (NoiseLevelCorrection(1.0, Known(share, path)),))(x, t, y)
    torch.testing.assert_close(convert(found, predicts, "x0", x, t, path), exact, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(convert(field(x, t, y), predicts, "x0", x, t, path), exact, atol=0.02)


def test_steps_are_those_of_the_paper():
    """In z = x / alpha, from the state after the first step: z <- (z - s^ eps) + (s^ s' / s) eps, s^ = s (1 + r), eps
    that of the level of s^.
    """
    field, ddim, states = mixture(), build("samplers", "ddim", steps=6), {}
    x, _, y = noisier(field, 0.0)
    correct = guided(field, (NoiseLevelCorrection(1.0, Known(0.1, Linear())),))
    found = ddim(correct, y, lambda k: x, observe=lambda k, t, x: states.setdefault(k, x))
    levels = ddim.called_at(Linear())[1:]
    z = states[2] / (1 - levels[0])
    for t, to in zip(levels, [*levels[1:], 0.0], strict=True):
        s, s_to = t / (1 - t), to / (1 - to)
        s_hat = 1.1 * s
        t_hat = s_hat / (1 + s_hat)
        state, level = z * (1 - t_hat), torch.full((4,), t_hat, dtype=torch.float64)
        eps = convert(field(state, level, y), "velocity", "eps", state, level, Linear())
        z = (z - s_hat * eps) + s_hat * s_to / s * eps
    torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)


def test_it_composes_with_guidance_of_the_network_and_of_references():
    """The mix of everything at the corrected level, whose x_0 is kept; NFE counts the branches and not r."""
    field, other = mixture("eps"), mixture()
    x, t, y = noisier(field, 0.2)
    residual, calls = Known(0.2, Linear()), Calls()
    guidance = (CFG(1.5), NAG(0.5), DoG(1.2, other))
    t_hat = (s := 1.2 * t / (1 - t)) / (1 + s)
    moved = x * ((1 - t_hat) / (1 - t)).view(-1, 1, 1, 1)
    mix = guided(field, guidance)(moved, t_hat, y)
    expected = convert(convert(mix, "eps", "x0", moved, t_hat, Linear()), "x0", "eps", x, t, Linear())
    own, correct = calls.counted(field), NoiseLevelCorrection(1.0, calls.counted(residual))
    every = guided(own, (*guidance[:2], DoG(1.2, calls.counted(other)), correct))
    torch.testing.assert_close(every(x, t, y), expected, rtol=1e-5, atol=1e-5)
    assert (calls.made, calls.residuals) == (4 * 4, 4)
    assert price(own, (*guidance, correct), {}, Linear()).at(0.6) == 4


def test_where_it_acts():
    """Not at t = 1 and t = 0, outside its interval, on the null noise condition; samples may differ in level."""
    field = mixture()
    correct = guided(field, (NoiseLevelCorrection(1.0, Known(0.3, Linear()), Interval(high=0.7)),))
    x, _, y = noisier(field, 0.0, n=5)
    t = torch.tensor([1.0, 0.8, 0.6, 0.0, -1.0], dtype=torch.float64)
    changed = (correct(x, t, y) != field(x, t, y)).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, True, False, False]
    half, whole = (guided(field, (NoiseLevelCorrection(w, Known(0.3 / w, Linear())),)) for w in (0.5, 1.0))
    t = torch.full((5,), 0.6, dtype=torch.float64)
    torch.testing.assert_close(half(x, t, y), whole(x, t, y))


def test_off_and_what_does_not_fit():
    field, residual = network(), Known(0.1, Linear(), SHAPE)
    assert guided(field, (NoiseLevelCorrection(0.0, "nowhere"),)) is field
    correct = NoiseLevelCorrection(1.0, residual)
    for guidance, message in [
        ((correct, TimeShift(0.1, 0.2)), "noise_level_correction and time_shift both say at which level networks"),
        ((NoiseLevelCorrection(1.0, "nlc"),), "reference network 'nlc'; no references were given"),
        ((NoiseLevelCorrection(1.0, field),), "needs a noise_level_residual as its reference, got NetworkField"),
        ((NoiseLevelCorrection(1.0, Known(0.1, GVP(), SHAPE)),), "its interpolant is GVP, the network Linear"),
        ((NoiseLevelCorrection(1.0, Known(0.1, Linear())),), r"states of shape \(2, 1, 1\), the network"),
    ]:
        with pytest.raises(ValueError, match=message):
            guided(field, guidance)


def test_a_trained_residual_reads_an_injected_error():
    """Flat images: an untrained r is 0; after a short training its error is a fifth, and 0.3 is read as about 0.3."""
    split = ArraySplit(np.zeros((64, *SHAPE), dtype=np.float32), np.zeros(64, dtype=np.int64))
    model, path = NoiseLevelResidual(hidden=32, depth=1, heads=2, patch=2), Linear()
    module = model.module(SHAPE, 10, null_noise=False)
    loss = model.loss(path, "velocity")
    generator = torch.Generator().manual_seed(0)
    eps, t = torch.randn(300, *SHAPE, generator=generator), torch.linspace(0.05, 0.95, 300)
    shares = torch.tensor([-0.3, 0.0, 0.3]).repeat(100)
    batch = Batch(0 * eps, eps, t, t, torch.zeros(300).long(), (1 + shares).view(-1, 1, 1, 1) * eps)
    with torch.no_grad():
        before = float(loss(module, batch))
    training = Training(steps=250, batch=64, lr=1e-2, level_error=0.5)
    module.load_state_dict(train(module, split, training, loss=loss, num_classes=10))
    with torch.no_grad():
        after = float(loss(module.eval(), batch))
    assert before > 0.05
    assert after < before / 5
    read = Residual(module, path, SHAPE).share(batch.states(path), t)
    for share in (-0.3, 0.0, 0.3):
        assert abs(float(read[shares == share].mean()) - share) < 0.06
    field, x = network(), batch.states(path)[:6]
    correct = guided(field, (NoiseLevelCorrection(1.0, Residual(module, path, SHAPE)),))
    assert torch.isfinite(correct(x, t[:6], torch.arange(6))).all()
