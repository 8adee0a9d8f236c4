"""Metrics over pairs of images, against plain formulas, scikit-learn and clean-fid, and where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from nag.datasets.dataset import to_uint8
from nag.datasets.digits import Digits
from nag.intervals import paired_difference, share_interval
from nag.metrics import cache as kept
from nag.metrics import neighbours
from nag.metrics import pairs as passes_over_pairs
from nag.metrics.authenticity import Authenticity
from nag.metrics.cmmd import CMMD
from nag.metrics.density_coverage import DensityCoverage
from nag.metrics.fid import FID
from nag.metrics.kid import KID
from nag.metrics.memorisation import Memorisation
from nag.metrics.pairs import nearest, within
from nag.metrics.precision_recall import PrecisionRecall


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99 + d).standard_normal((d, d)) / d**0.5
    return (1 + rng.gamma(2.0, size=(n, d)) @ mix).astype(np.float32)


@pytest.fixture(params=["one tile", "many tiles", "float32 tiles"])
def tiles(request, monkeypatch):
    """Small tiles, which do not divide the numbers below; and nothing kept from other tests. float32 tiles: of float32
    rows, as if there were many pairs.
    """
    monkeypatch.setattr(kept, "_kept", {})
    if request.param == "float32 tiles":
        monkeypatch.setattr(neighbours, "FEW", 0)
    if request.param != "one tile":
        monkeypatch.setattr(neighbours, "ROWS", 64)
        monkeypatch.setattr(neighbours, "COLUMNS", 16)
        monkeypatch.setattr(passes_over_pairs, "AT_ONCE", 24)


def pairs(a, b) -> np.ndarray:
    return ((a[:, None].astype(float) - b.astype(float)) ** 2).sum(-1)


def score(metric, samples, **reference):
    found = metric({"features": samples}, reference)
    return {name: one["value"] for name, one in found["values"].items()}, found


# The tiles


def test_every_pair_is_seen_once(tiles):
    a, b = (neighbours.Points(features(n, 3, seed=n)) for n in (150, 131))
    seen = np.zeros((150, 131), dtype=int)
    for rows, columns, tile in neighbours.products(a, b):
        seen[rows, columns] += 1
        assert tile.shape[0] <= neighbours.ROWS
        assert tile.shape[1] <= neighbours.COLUMNS
        off = 5 * 2.0**-24 if tile.dtype == torch.float32 else 5 * 2.0**-53
        lengths = a.lengths[rows, None] * b.lengths[columns]
        assert ((tile - a.block(rows) @ b.block(columns).T).abs() <= off * lengths).all()
    assert (seen == 1).all()
    seen = np.zeros((150, 150), dtype=int)
    for rows, columns, _ in neighbours.products(a, a):
        seen[rows, columns] += 1
        if columns.start >= rows.stop:
            seen[columns, rows] += 1
    assert (seen == 1).all()


def test_radii_and_nearest_are_scikit_learns(tiles):
    x, r = features(150, 6), features(131, 6, seed=1)
    points, others = neighbours.seen(x, r)
    for k in (1, 5, 100):
        theirs = NearestNeighbors(n_neighbors=k).fit(x.astype(float)).kneighbors()[0][:, -1]
        np.testing.assert_allclose(within(points, k).radii(k).sqrt(), theirs, rtol=1e-9)
    for a, b, rows in ((points, others, r), (points, points, x)):
        theirs = NearestNeighbors(n_neighbors=1).fit(rows.astype(float)).kneighbors(None if b is a else x.astype(float))
        distance, which = nearest(a, b)
        np.testing.assert_allclose(distance, theirs[0][:, 0], rtol=1e-9)
        assert (which == theirs[1][:, 0]).all()


def test_distances_that_float32_cannot_tell_apart_are_decided_exactly(tiles):
    """Groups of points 0.006 apart, at 8 from the centre: bounds of float32 do not order those of a group."""
    rng = np.random.default_rng(3)
    centres = 3 * rng.standard_normal((12, 8))
    r = (np.repeat(centres, 11, axis=0) + 2e-3 * rng.standard_normal((132, 8))).astype(np.float32)
    x = (np.repeat(centres, 13, axis=0) + 2e-3 * rng.standard_normal((156, 8))).astype(np.float32)
    x[5] = r[3]
    points, others = neighbours.seen(x, r)
    d, own, of_r = pairs(x, r), pairs(x, x), pairs(r, r)
    np.fill_diagonal(own, np.inf)
    np.fill_diagonal(of_r, np.inf)
    assert (nearest(points, others)[1] == d.argmin(1)).all()
    found = within(points, 7)
    assert (found.which.numpy() == own.argsort(1)[:, :7]).all()
    np.testing.assert_allclose(found.near, np.sort(own, axis=1)[:, :7], rtol=1e-12)
    of_r = np.sort(of_r, axis=1)
    expected = {"density": (d <= of_r[:, 4]).sum() / (5 * 156), "coverage": (d <= of_r[:, 4]).any(0).mean()}
    assert score(DensityCoverage(), x, features=r)[0] == expected
    expected = {"precision": (d <= of_r[:, 2]).any(1).mean()}
    expected["recall"] = (d <= np.sort(own, axis=1)[:, 2, None]).any(0).mean()
    assert score(PrecisionRecall(), x, features=r)[0] == expected
    assert 0 < expected["recall"] < 1


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_rows_are_in_each_others_balls(tiles, value):
    """So many ties that no bound decides anything."""
    x, r = np.full((150, 4), value, np.float32), np.full((131, 4), value, np.float32)
    assert score(PrecisionRecall(), x, features=r)[0] == {"precision": 1, "recall": 1}
    assert score(DensityCoverage(), x, features=r)[0] == {"density": 131 / 5, "coverage": 1}
    assert score(Authenticity(), x, features=r)[0] == {"authenticity": 0}


def test_values_that_float32_cannot_square_are_multiplied_in_float64(tiles):
    x, r = features(150, 6) * np.float32(1e22), features(131, 6, seed=1) * np.float32(1e22)
    points, others = neighbours.seen(x, r)
    assert neighbours.precision(points, others) == torch.float64
    assert (nearest(points, others)[1] == pairs(x, r).argmin(1)).all()


def test_many_pairs_change_kid_and_cmmd_by_rounding_only(monkeypatch):
    """Of features like Inception's: all above 0, with a large mean."""
    x, r = (np.abs(features(n, 64, seed=n)) for n in (700, 600))
    found = []
    for few in (10**9, 0):
        monkeypatch.setattr(kept, "_kept", {})
        monkeypatch.setattr(neighbours, "FEW", few)
        for metric in (KID(), CMMD()):
            values, scores = score(metric, x, features=r)
            influence = scores["arrays"]["influence"]
            half = scores["values"][metric.names[0]]["high"] - values[metric.names[0]]
            found.append((values[metric.names[0]], influence, half))
    for exact, single in zip(found[:2], found[2:], strict=True):
        assert single[0] != exact[0]
        assert abs(single[0] - exact[0]) <= 1e-5 * exact[2]
        assert single[0] == pytest.approx(exact[0], rel=1e-5)
        np.testing.assert_allclose(single[1], exact[1], atol=1e-4 * exact[1].std())


def test_the_series_is_exact_to_float32():
    x = -torch.linspace(0, 0.02, 10_001)
    exact = torch.expm1(x.double())
    assert torch.allclose(passes_over_pairs._expm1(x.clone()).double(), exact, rtol=2e-7, atol=0)


def test_what_is_kept_of_a_reference_is_found_by_its_content(monkeypatch):
    monkeypatch.setattr(kept, "_kept", {})
    made = []

    def make():
        made.append(1)
        return len(made)

    x = features(20, 3)
    assert kept.kept("a", make, x) == 1
    assert kept.kept("a", make, x.copy()) == 1
    assert kept.kept("b", make, x) == 2
    assert kept.kept("a", make, x.astype(float)) == 3
    assert kept.kept("a", make, x.reshape(3, 20)) == 4
    x[3, 1] += 1
    assert kept.kept("a", make, x) == 5
    for i in range(kept.AT_MOST):
        kept.kept(f"other {i}", make)
    assert len(kept._kept) == kept.AT_MOST
    assert kept.kept("a", make, x) == 6 + kept.AT_MOST


def test_what_is_of_the_references_is_found_once_for_all_cells(monkeypatch):
    """Cells in turn, each with three extractors, against training and held-out images."""
    monkeypatch.setattr(kept, "_kept", {})
    references = [{"features": features(40, d), "held_out": features(30, d, seed=1)} for d in (3, 4, 5)]
    metrics = [FID(), FID(against="held_out"), PrecisionRecall(), KID(), DensityCoverage()]
    reference_seen, plain = [], passes_over_pairs._within
    known = {len(reference["features"]) for reference in references}

    def counted(points, k):
        if len(points) in known:
            reference_seen.append(points.content)
        return plain(points, k)

    monkeypatch.setattr(passes_over_pairs, "_within", counted)
    for cell in range(4):
        for reference in references:
            samples = {"features": features(20, reference["features"].shape[1], seed=10 + cell)}
            for metric in metrics:
                metric(samples, reference)
    assert len(reference_seen) == len(references)


# Precision and recall; density and coverage


def test_precision_recall_density_and_coverage_are_what_plain_distances_give(tiles):
    x, r = features(150, 6), features(131, 6, seed=1) * 1.1
    x[:7] = r[20:27]  # some copies: a distance of 0
    of_x, of_r = (np.sort(pairs(a, a), axis=1) for a in (x, r))  # column 0 is the point itself
    d = pairs(x, r)
    expected = {"precision": (d <= of_r[:, 3]).any(1).mean(), "recall": (d <= of_x[:, 3, None]).any(0).mean()}
    assert score(PrecisionRecall(), x, features=r)[0] == expected
    within = d <= of_r[:, 5]
    expected = {"density": within.sum() / (5 * 150), "coverage": within.any(0).mean()}
    assert score(DensityCoverage(), x, features=r)[0] == expected
    within = d <= of_r[:, 1]
    assert score(DensityCoverage(k=1), x, features=r)[0]["density"] == within.sum() / 150


def test_density_and_coverage_of_equal_distributions_are_known():
    """Naeem et al., section 3.3: whatever the distribution, E density = 1 and E coverage = 1 - product over i < k of
    (N_r - 1 - i) / (N + N_r - 1 - i).
    """
    n, m, k = 300, 250, 5
    found = [
        score(DensityCoverage(), features(n, 4, seed=2 * i), features=features(m, 4, seed=2 * i + 1))[0]
        for i in range(40)
    ]
    missed = math.prod((m - 1 - i) / (n + m - 1 - i) for i in range(k))
    for name, expected in (("density", 1.0), ("coverage", 1 - missed)):
        values = [one[name] for one in found]
        assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / len(values) ** 0.5


def test_an_outlier_among_the_samples_deceives_recall_and_not_coverage():
    """Naeem et al., figure 2: samples at one place, and some far off, whose balls hold all of the reference."""
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((300, 8))
    samples = np.concatenate([0.1 * rng.standard_normal((270, 8)), 30 * rng.standard_normal((30, 8))])
    assert score(PrecisionRecall(), samples, features=reference)[0]["recall"] > 0.9
    assert score(DensityCoverage(), samples, features=reference)[0]["coverage"] < 0.4


# KID


def test_kid_is_clean_fids_of_all_pairs(tiles):
    from cleanfid.fid import kernel_distance

    x, r = features(150, 6).astype(float), features(150, 6, seed=1).astype(float) * 1.1
    ours, found = score(KID(), x, features=r)
    assert ours["kid"] == pytest.approx(kernel_distance(r, x, num_subsets=1, max_subset_size=150), rel=1e-12)
    more = features(131, 6, seed=1)
    kernel = [(a.astype(float) @ b.T.astype(float) / 6 + 1) ** 3 for a, b in ((x, x), (more, more), (x, more))]
    xx, rr = ((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernel[:2])
    expected = xx + rr - 2 * kernel[2].mean()
    assert score(KID(), x.astype(np.float32), features=more)[0]["kid"] == pytest.approx(expected, rel=1e-6)
    for i in (4, 70):  # Hájek's projection is the jackknife, but for (N - 1) / (N - 2)
        rest = score(KID(), np.delete(x, i, axis=0), features=r)[0]["kid"]
        assert 148 * (ours["kid"] - rest) == pytest.approx(found["arrays"]["influence"][i], rel=1e-4)


def test_kid_of_two_samples_has_no_interval_of_no_width():
    x, r = features(30, 4), features(40, 4, seed=1)
    two, three = (KID()({"features": x[:n]}, {"features": r})["values"]["kid"] for n in (2, 3))
    assert (two["low"], two["high"]) == (None, None)
    assert two["reason"] == "no interval: two samples are one pair"
    assert two["value"] is not None
    assert three["reason"] is None
    assert three["low"] < three["value"] < three["high"]


def test_kid_is_unbiased_at_every_n():
    r = features(200, 4, seed=7)
    many = score(KID(), features(8_000, 4, seed=8), features=r)[1]["values"]["kid"]
    few = [score(KID(), features(20, 4, seed=s), features=r)[0]["kid"] for s in range(100, 500)]
    assert abs(np.mean(few) - many["value"]) < 4 * (np.std(few) / 20 + (many["high"] - many["low"]) / 4)
    assert min(few) < 0


@pytest.mark.parametrize("gap", [0.3, 0.0])
def test_the_interval_of_kid_covers_also_where_nothing_is_to_be_told_apart(gap):
    """200 repetitions. Equal distributions are the degenerate case, in which the interval is too wide by up to a root
    of 2, never too narrow.
    """
    rng = np.random.default_rng(0)
    r = rng.standard_normal((300 if gap else 3000, 5)).astype(np.float32)

    def draw(n=200):
        return KID()({"features": gap + rng.standard_normal((n, 5))}, {"features": r})["values"]["kid"]

    truth = np.mean([draw()["value"] for _ in range(200)] if gap == 0 else [draw(1000)["value"] for _ in range(60)])
    scores = [draw() for _ in range(200 if gap else 100)]
    covered = np.mean([s["low"] <= truth <= s["high"] for s in scores])
    widths = np.mean([s["high"] - s["low"] for s in scores]) / (2 * 1.96 * np.std([s["value"] for s in scores]))
    assert covered >= 0.90
    assert (0.85 < widths < 1.15) if gap else (0.85 < widths < 1.7)
    assert covered <= 0.99 or gap == 0


def test_two_cells_of_shared_noise_are_compared_by_their_paired_influences():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((300, 5))
    differences, halves = [], []
    for _ in range(100):
        u = rng.standard_normal((150, 5))
        a, b = (KID()({"features": shift + u}, {"features": r}) for shift in (0.3, 0.25))
        sides = [(one["values"]["kid"]["value"], one["arrays"]["influence"]) for one in (a, b)]
        difference, low, high = paired_difference(*sides[0], *sides[1])
        differences.append(difference)
        halves.append((high - low) / 2 / 1.96)
    assert np.mean(halves) == pytest.approx(np.std(differences), rel=0.25)


# Memorisation


def digits() -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for name in ("train", "held_out"):
        split = Digits().open(name)
        parts.append(to_uint8(split.images(np.arange(len(split)))).reshape(len(split), -1) / np.float32(127.5) - 1)
    return parts[0], parts[1]


def test_copies_of_training_images_are_found_and_named():
    train, held_out = digits()
    rng = np.random.default_rng(0)
    row = rng.permutation(len(train))[:50]
    near = train[row[:25]] + 0.02 * rng.standard_normal((25, 64)).astype(np.float32)
    new = held_out[:300]
    samples = np.concatenate([train[row[25:]], near, new])
    for reference in ({"held_out": held_out}, {}):
        found, scores = score(Memorisation(), samples, features=train, **reference)
        arrays = scores["arrays"]
        assert (arrays["distance"][:25] == 0).all()
        assert (arrays["nearest"][:50] == np.concatenate([row[25:], row[:25]])).all()
        assert 50 / 350 <= found["memorisation"] <= 60 / 350
        np.testing.assert_allclose(arrays["distance"] ** 2, pairs(samples, train).min(1), rtol=1e-5, atol=1e-9)
        near = arrays["distance"] <= arrays["threshold"]
        np.testing.assert_allclose(arrays["influence"], near - near.mean(), atol=1e-7)
        low, high = (scores["values"]["memorisation"][key] for key in ("low", "high"))
        assert (low, high) == share_interval(round(350 * found["memorisation"]), 350)
        assert low > 0.08


def test_new_images_give_one_in_a_hundred_and_bad_ones_none():
    reference = {"features": features(1000, 5), "held_out": features(1000, 5, seed=1)}
    new = score(Memorisation(), features(4000, 5, seed=2), **reference)[0]["memorisation"]
    assert new == pytest.approx(0.01, abs=0.008)
    assert score(Memorisation(), reference["held_out"], **reference)[0]["memorisation"] == 0.01
    assert score(Memorisation(), features(100, 5) + 100, **reference)[0]["memorisation"] == 0
    among_themselves = {"features": reference["features"]}
    found, scores = score(Memorisation(), features(4000, 5, seed=2), **among_themselves)
    np.fill_diagonal(d := pairs(reference["features"], reference["features"]), np.inf)
    assert scores["arrays"]["threshold"][0] == pytest.approx(np.quantile(d.min(1) ** 0.5, 0.01), rel=1e-9)
    assert found["memorisation"] == pytest.approx(0.01, abs=0.008)


# Bad input


@pytest.mark.parametrize("metric", [KID(), DensityCoverage(), Memorisation(), PrecisionRecall()])
def test_what_cannot_be_scored_is_named(metric):
    good = features(50, 4)
    bad = good.copy()
    bad[17, 2] = np.nan
    moments = {"mean": np.zeros(4), "cov": np.eye(4)}
    for samples, reference, message in (
        ({"features": bad}, {"features": good}, "sample features: row 17 of 50 is not finite"),
        ({"features": good}, {"features": bad}, "reference features: row 17 of 50 is not finite"),
        ({"features": good}, {"features": good[:1]}, r"at least \d reference features are needed; got 1"),
        ({"features": good[:0]}, {"features": good}, r"at least \d sample features are needed; got 0"),
        ({"features": good}, {"features": good[:, :3]}, "sample features have 4 columns, reference features 3"),
        ({"features": good[0]}, {"features": good}, r"sample features must be \(N, dim\); got \(4,\)"),
        ({"features": good}, moments, r"no reference features: .* a row for each image \(there is: mean, cov\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(samples, reference)


def test_held_out_features_are_checked():
    good = features(50, 4)
    for held_out, message in (
        (good[:, :3], "held-out features have 3 columns, reference 4"),
        (good[:0], "at least 1 held-out features are needed; got 0"),
        (np.where(good == good[3, 2], np.inf, good), "held-out features: row 3 of 50 is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Memorisation()({"features": good}, {"features": good, "held_out": held_out})
