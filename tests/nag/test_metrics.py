import json

import numpy as np
import pytest
import scipy.linalg
import torch

import nag
from nag import noise
from nag.datasets.dataset import to_uint8
from nag.datasets.digits import Digits
from nag.metrics import cache as kept
from nag.metrics.class_accuracy import ClassAccuracy
from nag.metrics.fid import FID
from nag.metrics.frechet import Reference, frechet_distance, influence
from nag.metrics.moments import ROWS, Moments, moments
from nag.metrics.precision_recall import PrecisionRecall
from nag.registry import METHODS


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated, skewed, with a mean."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99 + d).standard_normal((d, d)) / d**0.5
    return 1 + rng.gamma(2.0, size=(n, d)) @ mix


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Stored pixels of the two parts of the digits, as features: three of the 64 never change."""
    parts = []
    for name in ("train", "held_out"):
        split = Digits().open(name)
        parts.append(to_uint8(split.images(np.arange(len(split)))).reshape(len(split), -1) / 127.5 - 1)
    return parts[0], parts[1]


# Moments


def test_moments_in_pieces_are_the_moments_of_the_whole():
    x = features(1000, 6)
    parts = [Moments(6), Moments(6), Moments(6)]
    for part, piece in zip(parts, np.split(x, [1, 400]), strict=True):
        part.add(piece)
    total = nag.Moments(6)
    for part in parts:
        total.merge(part)
    total.merge(Moments(6))
    assert total.n == 1000
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(total.cov, np.cov(x.T), rtol=1e-12, atol=1e-13)


def test_a_mean_far_larger_than_the_spread_costs_no_digits():
    x = np.round(features(2000, 4) * 1024) / 1024  # adding the mean below is then exact
    shifted = Moments(4)
    for piece in np.array_split(x + 2.0**26, 7):
        shifted.add(piece)
    np.testing.assert_allclose(shifted.cov, np.cov(x.T), rtol=1e-9)


def test_long_input_and_tensors_of_any_precision():
    x = features(2 * ROWS + 5, 3).astype(np.float32)
    np.testing.assert_allclose(moments(x).cov, np.cov(x.T.astype(float)), rtol=1e-11)
    assert (moments(torch.from_numpy(x)).cov == moments(x).cov).all()
    half = torch.from_numpy(x[:100]).bfloat16().requires_grad_()
    np.testing.assert_allclose(moments(half).mean, half.detach().double().numpy().mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(np.ones((3, 2))).merge(Moments(3)), "3 columns into 2"),
        (lambda: Moments(2).add(np.ones((3, 3))), r"\(N, 2\); got \(3, 3\)"),
        (lambda: moments(np.ones(3)), r"\(N, dim\); got \(3,\)"),
        (lambda: moments(np.array([[1.0], [2.0], [np.inf]])), "row 2 of 3 is not finite"),
        (lambda: Moments(2).mean, "at least 1"),
        (lambda: moments(np.ones((1, 2))).cov, "at least 2 feature vectors; got 1"),
    ],
)
def test_bad_features_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The Fréchet distance


def scipy_distance(mu1, cov1, mu2, cov2) -> float:
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root).real)


@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_the_distance_is_scipys(d):
    a, b = moments(features(300, d)), moments(0.8 * features(400, d, seed=1) - 0.1)
    expected = scipy_distance(a.mean, a.cov.reshape(d, d), b.mean, b.cov)
    assert nag.frechet_distance(a.mean, a.cov, b.mean, b.cov) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b.mean, b.cov, a.mean, a.cov) == pytest.approx(expected, rel=1e-6)


def test_known_distances():
    zero, one = np.zeros(3), np.eye(3)
    assert frechet_distance(zero, one, zero, one) == 0
    assert frechet_distance(zero, 4 * one, zero, one) == pytest.approx(3)  # three times (2 - 1)^2
    assert frechet_distance([3.0, 4.0], np.zeros((2, 2)), [0.0, 0.0], np.zeros((2, 2))) == 25
    # Two lines at a right angle: nothing of one lies along the other.
    assert frechet_distance(np.zeros(2), np.diag([1.0, 0]), np.zeros(2), np.diag([0, 1.0])) == pytest.approx(2)
    mu, S = torch.ones(3), torch.eye(3)
    assert frechet_distance(mu, S, zero, one) == pytest.approx(3)


def test_singular_covariances_of_pixels():
    train, held_out = pixels()
    a, b = moments(held_out), moments(train)
    assert Reference(b.mean, b.cov).rank == 61
    nudge = 1e-9 * np.eye(64)
    expected = scipy_distance(a.mean, a.cov + nudge, b.mean, b.cov + nudge)
    assert frechet_distance(a.mean, a.cov, b.mean, b.cov) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(b.mean, b.cov, a.mean, a.cov) == pytest.approx(expected, rel=1e-4)
    live = b.cov.diagonal() > 0  # a reference that is flat in a pixel costs exactly the sample's own spread there
    inner = frechet_distance(a.mean[live], a.cov[np.ix_(live, live)], b.mean[live], b.cov[np.ix_(live, live)])
    outer = a.cov.trace() - a.cov[np.ix_(live, live)].trace() + ((a.mean - b.mean)[~live] ** 2).sum()
    assert frechet_distance(a.mean, a.cov, b.mean, b.cov) == pytest.approx(inner + outer, rel=1e-6)


@pytest.mark.parametrize(
    ("mu", "cov", "message"),
    [
        (np.zeros(2), np.eye(2), "differ in dimension: 2 and 3"),
        (np.zeros(3), np.eye(2), r"got \(3,\) and \(2, 2\)"),
        (np.array([0, 0, np.nan]), np.eye(3), "not finite"),
        (np.zeros(3), np.full((3, 3), np.inf), "not finite"),
        (np.zeros(3), np.triu(np.ones((3, 3))), "not symmetric"),
    ],
)
def test_what_is_no_gaussian_is_refused(mu, cov, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(mu, cov, np.zeros(3), np.eye(3))


def test_a_negative_eigenvalue_is_refused():
    with pytest.raises(ValueError, match="eigenvalue -1"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.diag([1.0, -1.0]))


# Influence


def nudged(x: np.ndarray, i: int, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (1 - h) P + h delta(x_i), P being the samples with covariance N - 1."""
    mu, S = x.mean(axis=0), np.cov(x.T)
    z = x[i] - mu
    return mu + h * z, (1 - h) * S + h * (1 - h) * np.outer(z, z)


@pytest.mark.parametrize("case", ["full rank", "flat reference", "flat samples"])
def test_influence_is_the_derivative_of_the_distance_towards_a_sample(case):
    x, r = features(60, 8), 0.9 * features(80, 8, seed=1)
    if case == "flat reference":
        r[:, 3], r[:, 5] = 0.5, r[:, 4]
    if case == "flat samples":
        x[:, 2], x[:, 6] = 0.5, x[:, 1]
    known = moments(r)
    value, IF = influence(x, known.mean, known.cov)
    seen = moments(x)
    assert value == pytest.approx(frechet_distance(seen.mean, seen.cov, known.mean, known.cov), rel=1e-7)
    assert IF.dtype == np.float64
    h = 1e-4
    for i in range(0, 60, 7):
        up, down = (frechet_distance(*nudged(x, i, s), known.mean, known.cov) for s in (h, -h))
        assert (up - down) / (2 * h) == pytest.approx(IF[i], rel=1e-3, abs=1e-4 * np.abs(IF).max())


def test_influence_foretells_what_leaving_a_sample_out_does():
    x, r = features(2000, 5), moments(features(500, 5, seed=1))
    value, IF = influence(x, r.mean, r.cov)
    change = []
    for i in range(40):
        rest = moments(np.delete(x, i, axis=0))
        change.append(1999 * (value - frechet_distance(rest.mean, rest.cov, r.mean, r.cov)))
    assert np.corrcoef(change, IF[:40])[0, 1] > 0.999
    np.testing.assert_allclose(change, IF[:40], rtol=0.02, atol=0.1 * IF.std())


# FID


def test_fid_is_the_distance_with_its_extrapolation_by_random_halves():
    x, r = features(101, 6), features(300, 6, seed=1)
    scores = FID()({"features": x.astype(np.float32)}, {"features": r})
    score = scores["values"]["fid"]
    known = moments(r)
    sets = map(moments, (x, *(x[part] for part in noise.parts(101, 2))))
    full, first, second = (frechet_distance(m.mean, m.cov, known.mean, known.cov) for m in sets)
    assert score["value"] == pytest.approx(full, rel=1e-5)
    assert score["extrapolated"] == pytest.approx(2 * full - (first + second) / 2, rel=1e-5)
    assert score["low"] < score["value"] < score["high"]
    assert score["reason"] is None
    assert scores["arrays"]["influence"].shape == (101,)
    assert scores["arrays"]["influence"].dtype == np.float32


def test_extrapolation_removes_most_of_the_bias_in_n():
    d, n = 16, 160
    r = features(4000, d, seed=7)
    known = moments(r)
    truth = moments(features(400_000, d, seed=8))
    limit = frechet_distance(truth.mean, truth.cov, known.mean, known.cov)
    scores = [FID()({"features": features(n, d, seed=s)}, {"features": r})["values"]["fid"] for s in range(100, 160)]
    bias = np.mean([s["value"] for s in scores]) - limit
    left = np.mean([s["extrapolated"] for s in scores]) - limit
    assert bias > 0
    assert abs(left) < bias / 4


def test_too_few_samples_for_the_dimension_give_reasons_instead_of_numbers():
    r = features(300, 20, seed=1)
    few = FID()({"features": features(20, 20)}, {"features": r})["values"]["fid"]
    assert few["value"] > 0
    assert (few["low"], few["high"], few["extrapolated"]) == (None, None, None)
    assert few["reason"] == "no interval and no extrapolated value: N = 20 is not above the reference's dimension 20"
    some = FID()({"features": features(41, 20)}, {"features": r})["values"]["fid"]
    assert some["low"] is not None
    assert some["extrapolated"] is None
    assert some["reason"] == "no extrapolated value: N/2 = 20 is not above the reference's dimension 20"
    assert FID()({"features": features(42, 20)}, {"features": r})["values"]["fid"]["reason"] is None


def test_the_dimension_is_that_of_the_references_support():
    """Constant pixels do not count: 124 images of 64 pixels suffice, since 61 of them vary in the reference."""
    train, held_out = pixels()
    assert FID()({"features": held_out[:124]}, {"features": train})["values"]["fid"]["extrapolated"] is not None
    assert "dimension 61" in FID()({"features": held_out[:123]}, {"features": train})["values"]["fid"]["reason"]


@pytest.mark.parametrize("metric", [FID(), PrecisionRecall()])
def test_features_that_cannot_be_scored_are_named(metric):
    good = features(50, 4)
    bad = good.copy()
    bad[17, 2] = np.nan
    for samples, reference, message in (
        (bad, good, "sample features: row 17 of 50 is not finite"),
        (good, bad, "reference features: row 17 of 50 is not finite"),
        (good[:1], good, "sample features.*got 1"),
        (good, good[:1], "reference features.*got 1"),
        (good, good[:, :3], "sample features have 4 columns, reference features 3"),
    ):
        with pytest.raises(ValueError, match=message):
            metric({"features": samples}, {"features": reference})


# Precision and recall


def precision_recall(samples, reference, k=3) -> tuple[float, float]:
    scores = PrecisionRecall(k=k)({"features": np.asarray(samples)}, {"features": np.asarray(reference)})
    return scores["values"]["precision"]["value"], scores["values"]["recall"]["value"]


def test_equal_sets_cover_each_other_and_distant_ones_do_not():
    x = features(200, 8).astype(np.float32)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)


def test_a_known_case_on_a_line():
    """k = 1, worked out by hand; the ends of a ball count."""
    reference = np.array([[0.0], [1.0], [3.0]])  # radii 1, 1, 2: covered is [-1, 5]
    samples = np.array([[-1.0], [5.0], [5.5], [20.0]])  # radii 6, 0.5, 0.5, 14.5
    assert precision_recall(samples, reference, k=1) == (0.5, 1.0)
    samples = np.array([[5.0], [5.5], [6.0], [-9.0]])  # radii 0.5, 0.5, 0.5, 14
    assert precision_recall(samples, reference, k=1) == (0.25, 1.0)
    assert precision_recall(samples[:3], reference, k=1) == (1 / 3, 0.0)


def test_losing_half_of_the_modes_costs_recall_and_not_precision():
    rng = np.random.default_rng(0)
    reference, samples = rng.standard_normal((400, 4)), rng.standard_normal((400, 4))
    reference[::2, 0] += 100
    precision, recall = precision_recall(samples, reference)
    assert precision > 0.8
    assert 0.3 < recall <= 0.5
    assert precision_recall(reference, samples) == (recall, precision)


def test_it_is_what_plain_distances_give(monkeypatch):
    """Also in small pieces, and where the features are far from the origin."""
    x, r = features(150, 10).astype(np.float32), features(130, 10, seed=1).astype(np.float32) * 1.1

    def share(points, centres):
        within = np.sort(((centres[:, None] - centres) ** 2).sum(-1), axis=1)[:, 3]  # 0 is the point itself
        return (((points[:, None] - centres) ** 2).sum(-1) <= within).any(axis=1).mean()

    a, b = x.astype(float), r.astype(float)
    expected = share(a, b), share(b, a)
    assert precision_recall(x, r) == expected
    assert precision_recall(a + 2.0**20, b + 2.0**20) == expected
    monkeypatch.setattr("nag.metrics.neighbours.ROWS", 64)
    monkeypatch.setattr("nag.metrics.neighbours.COLUMNS", 16)
    monkeypatch.setattr("nag.metrics.cache._kept", {})
    assert precision_recall(x, r) == expected


def test_repeats_are_within_their_own_radius():
    """Four equal points have radius 0 and still cover themselves, wherever they lie."""
    point = features(1, 30)
    reference = np.concatenate([np.repeat(point, 4, axis=0), features(20, 30, seed=3) + 50])
    assert precision_recall(np.repeat(point, 5, axis=0), reference)[0] == 1


# Every metric


@pytest.mark.parametrize("name", METHODS["metrics"])
def test_a_metric_keeps_its_contract_and_leaves_its_input_alone(name):
    metric = nag.build("metrics", name)
    logits = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    samples = {"features": features(50, 4).astype(np.float32), "spatial": features(50, 5), "logits": logits}
    samples |= {"labels": np.arange(50) % 3, "colour": np.random.default_rng(1).random((50, 3), np.float32)}
    reference = {"features": features(60, 4, seed=1).astype(np.float32), "spatial": features(60, 5, seed=1)}
    reference |= {"held_out": features(60, 4, seed=2).astype(np.float32), "colour": samples["colour"][:9]}
    reference |= {"labels": np.arange(60) % 3}
    arrays = [*samples.values(), *reference.values()]
    before = [array.copy() for array in arrays]
    expected = metric(samples, reference)
    for array in arrays:
        array.setflags(write=False)  # as they come out of the store
    kept._kept.clear()
    scores = metric({key: samples[key] for key in metric.needs}, reference)
    assert scores["values"] == expected["values"]
    assert all((one == other).all() for one, other in zip(arrays, before, strict=True))
    assert tuple(scores["values"]) == metric.names == tuple(metric.lower_is_better)
    assert json.loads(json.dumps(scores["values"])) == scores["values"]
    for key, array in scores["arrays"].items():
        assert (array == expected["arrays"][key]).all()
    for key in {"influence", "distance"} & scores["arrays"].keys():
        assert (scores["arrays"][key].shape, scores["arrays"][key].dtype) == ((50,), np.float32)
    if "influence" in scores["arrays"]:
        assert abs(scores["arrays"]["influence"].mean()) <= 0.03 * scores["arrays"]["influence"].std()
    few = {key: array[: metric.least] for key, array in samples.items()}
    assert metric(few, reference)["values"].keys() == set(metric.names)
    if metric.least > 1:
        with pytest.raises(ValueError, match=f"at least {metric.least} sample"):
            metric({key: array[: metric.least - 1] for key, array in samples.items()}, reference)


# Class accuracy


def test_class_accuracy_counts_the_labels_that_were_asked_for():
    logits = np.array([[3.0, 1, 2], [0, 1, 0], [0, 0, 9], [1, 0, 0]], dtype=np.float32)
    scores = ClassAccuracy()({"logits": logits, "labels": np.array([0, 1, 1, 0])}, {})
    assert scores["values"] == {
        "class_accuracy": {"value": 0.75, "low": None, "high": None, "extrapolated": None, "reason": None}
    }
    for labels, message in ((np.array([0, 1, 3, 0]), "from 0 to 3; there are 3"), (np.array([0]), r"\(1,\)")):
        with pytest.raises(ValueError, match=message):
            ClassAccuracy()({"logits": logits, "labels": labels}, {})
    with pytest.raises(ValueError, match="row 1 of 4"):
        ClassAccuracy()({"logits": np.where(logits == 1, np.nan, logits)[[2, 1, 0, 3]], "labels": np.zeros(4)}, {})
