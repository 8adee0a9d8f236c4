"""The noise shift: Statement 1, NAG against an injected error in closed form, and a trained estimator's calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nag.datasets.dataset import ArraySplit
from nag.estimator import Estimator
from nag.guidance.nag import NAG
from nag.models.noise_level import NoiseLevel
from nag.noise_shift import injected, observed_steps, of_classes, parts, per_sample, predictions, shift, true_states
from nag.registry import build
from nag.sampling import guided
from nag.training import Training, train
from tests.nag.gaussian_mixture import GaussianMixture

RANK, DIMENSION, COUNT = 4, 256, 400


def low_rank(x0: np.ndarray, t: float, noise: np.ndarray) -> np.ndarray:
    """x_t of data with variance in the first RANK directions only."""
    x = t * noise
    x[:, :RANK] += (1 - t) * x0
    return x


def exact_level(x: np.ndarray) -> np.ndarray:
    """Posterior mean of the level for that data, in closed form on a grid."""
    levels = (np.arange(2000) + 0.5) / 2000
    variance = np.repeat(levels[:, None] ** 2, DIMENSION, 1)  # (L, d)
    variance[:, :RANK] += (1 - levels[:, None]) ** 2
    log_p = -0.5 * (x**2 @ (1 / variance).T + np.log(variance).sum(1))
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    return p @ levels / p.sum(1)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_statement_1(t: float, error: float) -> None:
    """A state with an error e ~ N(0, s^2) looks like level sqrt(t^2 + s^2) (NAG paper, Statement 1, linear path)."""
    rng = np.random.default_rng(0)
    x0, noise, e = (rng.standard_normal((COUNT, d)) for d in (RANK, DIMENSION, DIMENSION))
    true = low_rank(x0, t, noise)
    seen, exact = exact_level(true + error * e), exact_level(true)
    found = shift(np.array([t]), seen[None], exact[None])
    delta = math.sqrt(t**2 + error**2) - t
    monte_carlo = float((seen - exact).std()) / COUNT**0.5  # the same x_0 and noise on both sides
    assert abs(found["delta"][0] - delta) < 3 * monte_carlo + 0.02 * delta
    assert abs(found["bias"][0]) < 0.01


@dataclass
class Damped:
    """A mixture's field that under-estimates its velocity by a share, told the level or not: an injected error."""

    exact: GaussianMixture
    share: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exact, name)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return (1 - self.share) * self.exact(x, t, y)


def clusters() -> GaussianMixture:
    """Three tight classes in 12 dimensions: few directions of much variance."""
    torch.manual_seed(0)
    means = torch.randn(3, 12, 1, 1, dtype=torch.float64)
    return GaussianMixture(means, torch.full((3,), 0.02, dtype=torch.float64), torch.ones(3, dtype=torch.float64) / 3)


def late_shift(scale: float, share: float = 0.1) -> dict[str, Any]:
    """Sample with Euler from the damped field, guided or not; g is the exact posterior mean."""
    field = clusters()
    generator = torch.Generator().manual_seed(1)
    n, steps = 120, 25
    noise = torch.randn(n, 12, 1, 1, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    seen: dict[float, np.ndarray] = {}

    def observe(k: int, t: float, x: Tensor) -> None:
        if k in observed_steps(steps, 50):
            seen[t] = field.level(x).numpy()

    sampler = build("samplers", "euler", steps=steps)
    sampler(guided(Damped(field, share), (NAG(scale),)), y, lambda k: noise, observe=observe)  # type: ignore[arg-type]
    t = np.array(sorted(seen)[::-1])
    x0 = field.means[y] + 0.02 * torch.randn(n, 12, 1, 1, dtype=torch.float64, generator=generator)
    true = np.array([field.level((1 - level) * x0 + level * noise).numpy() for level in t])
    return shift(t, np.array([seen[level] for level in t]), true)


def test_nag_lowers_the_late_shift_of_an_injected_error() -> None:
    """On a Gaussian mixture in closed form: the error makes late states look too noisy, and NAG brings them back."""
    nothing, plain, weak, strong = (late_shift(*case) for case in ((0.0, 0.0), (0.0,), (0.5,), (2.0,)))
    assert abs(nothing["shift_late"]["value"]) < 0.01
    assert plain["shift_late"]["low"] > 0.02
    assert weak["shift_late"]["value"] < 0.9 * plain["shift_late"]["value"]  # the same noise in each
    assert strong["shift_late"]["high"] < plain["shift_late"]["low"]


def test_intervals_cover() -> None:
    """delta's interval holds the true shift 95 % of the time, and the mean's as well, although levels are dependent."""
    rng = np.random.default_rng(0)
    t, true_delta = np.array([0.8, 0.2, 0.1]), np.array([0.0, 0.03, 0.06])
    hits, late = [], []
    for _ in range(400):
        person = rng.standard_normal((2, 1, 60)) * 0.05  # what a sample has at all its levels
        sampled = t[:, None] + true_delta[:, None] + person[0] + 0.05 * rng.standard_normal((3, 60))
        true = t[:, None] + person[1] + 0.05 * rng.standard_normal((3, 60))
        found = shift(t, sampled, true)
        hits.append((np.array(found["low"]) <= true_delta) & (true_delta <= np.array(found["high"])))
        late.append(found["shift_late"]["low"] <= 0.045 <= found["shift_late"]["high"])
    assert 0.92 <= np.mean(hits) <= 0.975
    assert 0.92 <= np.mean(late) <= 0.98


@pytest.mark.parametrize(("steps", "levels", "found"), [(1, 5, []), (2, 5, [2]), (6, 50, [2, 3, 4, 5, 6])])
def test_observed_steps(steps: int, levels: int, found: list[int]) -> None:
    assert observed_steps(steps, levels) == found


def test_observed_steps_are_spread() -> None:
    some = observed_steps(250, 50)
    assert len(some) == 50
    assert min(some) >= 2
    assert max(some) <= 250
    assert set(np.diff(some)) <= {4, 5, 6}


def test_a_trained_estimator_knows_the_level() -> None:
    """Constant images: after a short training the posterior mean is near t, and its bias is what shift() says."""
    images = np.zeros((64, 1, 8, 8), dtype=np.float32)
    split = ArraySplit(images, np.zeros(64, dtype=np.int64))
    model, interpolant = NoiseLevel(hidden=32, depth=1, heads=2, patch=2, bins=50), build("interpolants", "linear")
    module = model.module((1, 8, 8), 10, null_noise=False)
    training = Training(steps=150, batch=64, lr=1e-2)
    weights = train(module, split, training, loss=model.loss(interpolant, "velocity"), num_classes=10)
    module.load_state_dict(weights)
    g = Estimator(module.eval(), interpolant, (1, 8, 8))
    t = np.array([0.9, 0.6, 0.3])
    images_of = of_classes(split, np.zeros(100, dtype=np.int64))
    true = np.array([predictions(g, true_states(split, interpolant, level, images_of), "cpu", 64) for level in t])
    found = shift(t, true, true)
    assert np.abs(found["bias"]).max() < 0.08
    assert found["delta"] == [0.0, 0.0, 0.0]
    assert np.allclose(true.mean(1) - t, found["bias"])
    read = predictions(g.read, true_states(split, interpolant, 0.6, images_of), "cpu", 64)
    assert np.array_equal(read[:, 0], true[1])
    assert np.allclose(read[:, 1] * 50 % 1, 0.5, atol=1e-4)  # the centre of a bin
    assert np.abs(read[:, 1] - 0.6).mean() < 0.1


@pytest.mark.parametrize("gain", [0.3, 2.5])
@pytest.mark.parametrize("error", [0.02, -0.01])
def test_a_known_error_is_read_in_units_of_t(gain: float, error: float) -> None:
    """g_phi may exaggerate or play down: an injected error of 0.02 is read as 0.02, within its interval. The sampled
    states are of other images and noise than the true ones.
    """
    hits, deltas, t = 0, [], np.array([0.7, 0.4, 0.15])
    for repeat in range(12):
        rng = np.random.default_rng(repeat)

        def read(level: float, noisy_as: float, x0: np.ndarray, eps: np.ndarray) -> np.ndarray:
            x = noisy_as * eps
            x[:, :RANK] += (1 - level) * x0
            return 0.1 + gain * exact_level(x) ** 1.2

        (x0, other), (eps, noise) = (rng.standard_normal((2, 100, d)) for d in (RANK, DIMENSION))
        sampled = np.array([read(level, level + error, other, noise) for level in t])
        true, below, above = (np.array([read(level, level + d, x0, eps) for level in t]) for d in (0, -0.02, 0.02))
        assert np.allclose([injected(level) for level in t], [(level - 0.02, level + 0.02) for level in t])
        found = shift(t, sampled, true, (above - below) / 0.04)
        low, high = np.array(found["low"]), np.array(found["high"])
        hits += int(((low <= error) & (error <= high)).sum())
        deltas.append((found["delta"], shift(t, sampled, true)["delta"]))
    assert hits >= 29  # of 36; 34 are expected
    calibrated, raw = np.mean(deltas, axis=0)
    assert np.abs(calibrated - error).max() < 0.003
    assert np.abs(raw - error).min() > 0.003


def test_no_shift_where_classes_are_unbalanced() -> None:
    """Class 0, nine tenths of the images, is flat; class 1 is rough and looks noisier. Samples are half of each:
    against true states of any images they show a shift of 0.02 and more, against those of their own classes none.
    """
    rng = np.random.default_rng(0)
    flat = 0.05 * rng.standard_normal((2000, 1, 6, 6)).astype(np.float32)
    labels = (np.arange(2000) % 10 == 0).astype(np.int64)
    images = np.where(labels[:, None, None, None] == 1, 6 * flat, flat)
    split, linear = ArraySplit(images, labels), build("interpolants", "linear")

    def g(x: Tensor) -> Tensor:
        return x.flatten(1).std(dim=1)

    t, count = np.array([0.5, 0.2]), 400
    asked = np.arange(count) % 2
    own, anyones = of_classes(split, asked, seed=1), np.random.default_rng(1).permutation(2000)[:count]
    assert np.array_equal(labels[own], asked)
    assert len(set(own.tolist())) == count  # no image twice while there are others
    samples = of_classes(split, asked, seed=2)
    sampled, true, wrong = (
        np.array([g(true_states(split, linear, level, at, seed)).numpy() for level in t], dtype=np.float64)
        for at, seed in ((samples, 2), (own, 1), (anyones, 1))
    )
    found, before = shift(t, sampled, true), shift(t, sampled, wrong)
    assert before["shift_mean"]["low"] > 0.02
    assert found["shift_mean"]["low"] < 0 < found["shift_mean"]["high"]
    assert abs(found["shift_mean"]["value"]) < 0.005


def test_classes_without_images_are_left_out() -> None:
    split = ArraySplit(np.zeros((6, 1, 1, 1), dtype=np.float32), np.array([0, 0, 2, 2, 2, 0]))
    picked = of_classes(split, np.array([2, 1, 0, 2, 2, 2]))
    assert picked[1] == -1
    assert picked[2] in (0, 1, 5)
    assert set(picked[[0, 3, 4]].tolist()) == {2, 3, 4}
    assert picked[5] == picked[0]  # from the first one again


def test_a_level_without_response_has_no_shift() -> None:
    """An estimator that does not respond cannot tell: no number rather than a wild one."""
    rng = np.random.default_rng(0)
    t, readings = np.array([0.5, 0.1]), 0.01 * rng.standard_normal((2, 2, 50))
    response = np.stack([1 + 0.1 * rng.standard_normal(50), rng.standard_normal(50) - 0.2])
    found = shift(t, *readings, response)
    assert found["delta"][1] is found["low"][1] is None
    assert found["shift_late"] is None
    assert found["shift_mean"]["value"] == pytest.approx(found["delta"][0])


def halves(share: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels, and delta of each sample by the exact posterior mean, of Euler's states from a damped field."""
    field = clusters()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(100, 12, 1, 1, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (100,), generator=generator)
    seen: dict[float, np.ndarray] = {}
    wanted = {(k - 1) * steps // 8 + 1 for k in observed_steps(8, 50)}

    def observe(k: int, t: float, x: Tensor) -> None:
        if k in wanted:
            seen[t] = field.level(x).numpy()

    build("samplers", "euler", steps=steps)(Damped(field, share), y, lambda k: noise, observe=observe)
    t = np.array(sorted(seen)[::-1])
    x0 = field.means[y] + 0.02 * torch.randn(100, 12, 1, 1, dtype=torch.float64, generator=generator)
    true = np.array([field.level((1 - level) * x0 + level * noise).numpy() for level in t])
    return t, per_sample(np.array([seen[level] for level in t]), true)


def test_the_shift_splits_into_network_and_discretisation() -> None:
    """An exact network: all of the shift goes with more steps. A wrong one: its part stays."""
    (t, few), (finer_t, many) = halves(0.0, 8), halves(0.0, 64)
    exact = parts(t, few, finer_t, many)
    late = t < 0.3
    total = few.mean(axis=1)
    assert np.allclose(np.array(exact["delta"]) + np.array(exact["discretisation"]), total)
    assert np.abs(np.array(exact["delta"])[late]).max() < 0.01
    wrong = parts(t, halves(0.1, 8)[1], finer_t, halves(0.1, 64)[1])
    assert np.array(wrong["low"])[late].min() > 0.02
    assert np.abs(total[late]).max() < np.array(wrong["delta"])[late].min()
