"""The effective guidance scale: exact for CFG, 1 without guidance, else by its definition; samples do not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nag.effective_scale import BINS, SAME, EffectiveScale, Recording, summary
from nag.field import Calls, NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.guidance.terms import Interval
from nag.interpolants import Linear
from nag.models.sit import SiT
from nag.registry import build
from nag.sampling import guided
from tests.nag.gaussian_mixture import mixture

N, KEEP = 6, 4
LABELS = torch.arange(N) % 3
SAMPLERS = {"euler": {"steps": 5}, "heun": {"steps": 3}, "ddim": {"steps": 4}, "dopri5": {}}


def noise(shape, seed=3):
    def draw(k):
        return torch.randn(N, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + k))

    return draw


def recorded(field, guidance, sampler, compose="sum", keep=KEEP):
    """A recording of a sampling, whose samples must be those of the sampling without it."""
    mixed = guided(field, guidance, compose=compose)
    recording = Recording(mixed, field, keep)
    samples = sampler(recording, LABELS, noise(field.shape))
    assert torch.equal(samples, sampler(mixed, LABELS, noise(field.shape)))
    return recording


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("scale", [1.1, 1.5, 4.0, 20.0])
def test_cfg_has_its_own_scale_at_every_evaluation(name, scale):
    recording = recorded(mixture(), (CFG(scale),), build("samplers", name, **SAMPLERS[name]))
    assert recording.scale.shape == recording.t.shape
    assert recording.scale.shape[1] == KEEP
    left_out = np.isnan(recording.scale)
    assert (recording.t[left_out] < 0.5).all(), "only there an exact network knows the class from the state alone"
    np.testing.assert_allclose(recording.scale[~left_out], scale, rtol=1e-3)
    np.testing.assert_allclose(recording.scale[recording.t >= 0.5], scale, rtol=1e-9)
    assert recording.network_calls == 2 * recording.scale.size


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_guidance_is_one_and_costs_nothing(name):
    for guidance in ((), (CFG(1.0), NAG(0.0))):
        recording = recorded(mixture(), guidance, build("samplers", name, **SAMPLERS[name]))
        assert (recording.scale == 1).all()
        assert recording.network_calls == 0


def test_outside_its_interval_a_guidance_is_none():
    sampler = build("samplers", "heun", steps=4)
    recording = recorded(mixture(), (CFG(3.0, interval=Interval(0.3, 0.8)),), sampler)
    inside = (recording.t >= 0.3) & (recording.t <= 0.8)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(recording.scale[inside], 3.0, rtol=1e-9)
    at_data = np.isnan(recording.scale)
    assert (recording.t[at_data] == 0).all()
    np.testing.assert_allclose(recording.scale[~inside & ~at_data], 1.0, rtol=1e-9)


def test_on_some_channels_the_update_is_shorter():
    """It is measured against the distance over all channels: CFG on some of them moves a prediction less far."""
    field, sampler = mixture(), build("samplers", "euler", steps=3)
    recording = recorded(field, (CFG(3.0, channels=1),), sampler, keep=N)
    x, t = noise(field.shape)(0), torch.ones(N, dtype=torch.float64)
    away = field(x, t, LABELS) - field(x, t, torch.full_like(LABELS, field.num_classes))
    expected = 1 + 2 * away[:, :1].flatten(1).norm(dim=1) / away.flatten(1).norm(dim=1)
    np.testing.assert_allclose(recording.scale[0], expected, rtol=1e-9)
    assert (expected < 3).all()


@pytest.fixture
def network():
    """A tiny SiT with random weights, which predicts a variance too."""
    generator = torch.Generator().manual_seed(0)
    module = SiT(hidden=16, depth=1, heads=2, patch=4, learned_variance=True).module((2, 8, 8), 3, null_noise=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return NetworkField(module.eval(), Linear(), "velocity", (2, 8, 8), 3, True, True)


@pytest.mark.parametrize("compose", ["sum", "nested"])
def test_nag_of_a_network_by_its_definition(network, compose):
    """Two steps by hand, with a loop over samples, in numpy; with CFG too, in both compositions."""
    calls = Calls()
    counted = calls.counted(network)
    w, s, steps = 1.3, 2.0, 2
    mixed = guided(counted, (CFG(s), NAG(w)), compose=compose)
    recording = Recording(mixed, counted, N)

    def draw(k):
        return noise(network.shape)(k).float()

    build("samplers", "euler", steps=steps)(recording, LABELS, draw)
    assert calls.made == N * steps * mixed.calls + recording.network_calls

    x, null_y = draw(0), torch.full_like(LABELS, 3)
    for step, level in enumerate((1.0, 0.5)):
        t = torch.full((N,), level)
        D, D_null, D_off = (network(x, a, b)[:, :2] for a, b in ((t, LABELS), (t, null_y), (0 * t - 1, LABELS)))
        both_off = network(x, 0 * t - 1, null_y)[:, :2]
        by_sum = D + (s - 1) * (D - D_null) + w * (D - D_off)
        inner, inner_null = D + w * (D - D_off), D_null + w * (D_null - both_off)
        update = (by_sum if compose == "sum" else inner_null + s * (inner - inner_null)) - D
        for i in range(N):
            expected = 1 + np.linalg.norm(update[i].double()) / np.linalg.norm((D - D_null)[i].double())
            assert recording.scale[step, i] == pytest.approx(expected, rel=1e-4)
        x = x - 0.5 * (D + update)
    assert recording.t.tolist() == [[1.0] * N, [0.5] * N]


@pytest.mark.parametrize("predicts", ["eps", "x0", "score"])
def test_it_is_the_same_for_every_kind_of_prediction(predicts):
    """Along CFG and NAG at once, at levels and states where the prediction can be converted."""
    x, t = noise((2, 1, 1))(0), torch.linspace(0.2, 0.9, N, dtype=torch.float64)
    scales = []
    for kind in ("velocity", predicts):
        recording = Recording(guided(mixture(kind), (CFG(2.0),)), mixture(kind), N)
        recording(x, t, LABELS)
        scales.append(recording.scale)
    np.testing.assert_allclose(scales[0], scales[1], rtol=1e-7)


def test_only_the_first_samples_are_noted():
    whole = recorded(mixture(), (NAG(1.0),), build("samplers", "euler", steps=3), keep=N)
    part = recorded(mixture(), (NAG(1.0),), build("samplers", "euler", steps=3), keep=2)
    np.testing.assert_allclose(part.scale, whole.scale[:, :2], rtol=1e-12)
    assert part.network_calls == 2 * 3 * 2
    assert recorded(mixture(), (NAG(1.0),), build("samplers", "euler", steps=3), keep=0).scale.size == 0


def test_without_a_null_class_there_is_no_scale():
    field = mixture()
    field.has_null_class = False
    with pytest.raises(ValueError, match="needs a network that was trained with a null class condition"):
        Recording(guided(field, (NAG(1.0),)), field, 1)


class Blind(torch.nn.Module):
    """Predicts the same for every class."""

    def forward(self, x, t, y):
        return x * (1 + t[:, None, None, None])


def test_where_the_class_changes_nothing():
    """There is no scale, and the record tells the reason; without guidance it is 1 still."""
    field = NetworkField(Blind(), Linear(), "velocity", (2, 1, 1), 3, True, True)
    x, t = torch.ones(2, 2, 1, 1), torch.full((2,), 0.5)
    for guidance, expected in ((CFG(2.0), np.nan), (NAG(1.0), np.nan), (CFG(1.0), 1.0)):
        recording = Recording(guided(field, (guidance,)), field, 2)
        recording(x, t, LABELS[:2])
        np.testing.assert_array_equal(recording.scale, [[expected] * 2])
    once = summary(np.array([0, 1, 0, 1]), np.array([1, 1, 0.5, 0.5]), np.array([3, 4, np.nan, 2.0]))
    assert once["score"]["value"] == 3.0, "the first sample by its other evaluation"
    assert once["curve"]["scale"] == [3.5, None]
    never = summary(np.array([0, 1]), np.array([0.5, 0.5]), np.array([np.nan, 2.0]))
    assert never["score"] == {"value": None, "low": None, "high": None, "extrapolated": None, "reason": SAME}
    assert never["curve"] == {"t": [0.5], "scale": [None], "low": [None], "high": [None], "count": 2}


def test_mean_over_evaluations_then_over_samples():
    """A sample with more evaluations has no more weight; a level's value is the mean over samples too."""
    sample, t = np.array([0, 0, 0, 1]), np.array([1.0, 0.5, 0.5, 0.5])
    found = summary(sample, t, np.array([4.0, 1.0, 1.0, 3.0]))
    assert found["score"]["value"] == 2.5
    assert found["influence"].tolist() == [-0.5, 0.5]
    assert found["curve"]["t"] == [1.0, 0.5]
    assert found["curve"]["scale"] == [None, 2.0], "one sample alone has no interval"
    binned = summary(sample, t, np.array([4.0, 1.0, 1.0, 3.0]), BINS)["curve"]
    np.testing.assert_allclose(binned["t"], np.linspace(0.975, 0.025, BINS))
    assert [value for value in binned["scale"] if value is not None] == [2.0]


def test_intervals_cover():
    """Evaluations of a sample share much of their scale, so intervals over all evaluations would be far too narrow.
    Skewed samples, 400 of each measurement, 400 measurements.
    """
    rng = np.random.default_rng(0)
    count, levels, repeats = 400, 20, 400
    curve = 1 + np.linspace(2, 0, levels)
    sample, t = np.repeat(np.arange(count), levels), np.tile(np.linspace(1, 0.05, levels), count)
    inside, inside_at, naive = 0, 0, 0
    for _ in range(repeats):
        own = rng.gamma(2.0, 0.5, count)[:, None]  # mean 1
        scale = (1 + own * (curve - 1) + 0.1 * rng.standard_normal((count, levels))).ravel()
        found = summary(sample, t, scale)
        inside += found["score"]["low"] <= curve.mean() <= found["score"]["high"]
        inside_at += found["curve"]["low"][3] <= curve[3] <= found["curve"]["high"][3]
        half = 1.96 * scale.std() / scale.size**0.5
        naive += abs(scale.mean() - curve.mean()) <= half
    assert 0.92 <= inside / repeats <= 0.98
    assert 0.92 <= inside_at / repeats <= 0.98
    assert naive / repeats < 0.6


def test_smoke_measures_few():
    assert EffectiveScale().smoke() == EffectiveScale(count=16)
