"""CMMD, MIND, Vendi, authenticity, FLD and the ratio of Fréchet distances: against public code and plain formulas.

Fixed numbers are what public code gave for the fixture `three`.
"""

import numpy as np
import pytest
import torch

from nag import noise
from nag.intervals import paired_difference
from nag.metrics import cache, fld, mind, neighbours
from nag.metrics import pairs as passes_over_pairs
from nag.metrics.authenticity import Authenticity
from nag.metrics.cmmd import CMMD
from nag.metrics.density_coverage import DensityCoverage
from nag.metrics.fd_ratio import FDRatio
from nag.metrics.fid import FID
from nag.metrics.fld import FLD
from nag.metrics.kid import KID
from nag.metrics.memorisation import Memorisation
from nag.metrics.mind import MIND
from nag.metrics.precision_recall import PrecisionRecall
from nag.metrics.vendi import Vendi
from tests.nag.test_metrics_neighbours import features, pairs

EVERY = (CMMD(), MIND(), Vendi(), Authenticity(), FLD(), FDRatio())


@pytest.fixture(autouse=True, params=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(cache, "_kept", {})
    if request.param == "many tiles":
        monkeypatch.setattr(neighbours, "ROWS", 64)
        monkeypatch.setattr(neighbours, "COLUMNS", 16)
        monkeypatch.setattr(passes_over_pairs, "AT_ONCE", 24)
        monkeypatch.setattr(mind, "AT_ONCE", 7)
        monkeypatch.setattr(fld, "BLOCK", 13)


@pytest.fixture
def three():
    return features(150, 6), features(131, 6, seed=1), features(90, 6, seed=2)


def score(metric, x, **reference):
    """The value of a metric with one name, its score, and the influence of each sample."""
    found = metric({"features": x}, reference)
    [one] = found["values"].values()
    return one["value"], one, found["arrays"].get("influence")


def directions(x):
    return x / np.linalg.norm(x.astype(float), axis=1, keepdims=True)


# Values


def test_cmmd_is_its_authors_formula(three):
    """distance.py of google-research/cmmd in float64: means over all pairs, each image with itself too."""
    x, r, _ = three
    assert score(CMMD(), x, features=r)[0] == pytest.approx(0.029832377380634, rel=1e-5)
    kernel = {one: np.exp(-pairs(directions(a), directions(b)) / 200) for one, a, b in (("x", x, x), ("r", r, r))}
    kernel["both"] = np.exp(-pairs(directions(x), directions(r)) / 200)
    for unbiased in (False, True):
        within = [(k.sum() - unbiased * len(k)) / (len(k) * (len(k) - unbiased)) for k in (kernel["x"], kernel["r"])]
        expected = 1000 * (sum(within) - 2 * kernel["both"].mean())
        assert score(CMMD(unbiased=unbiased), x, features=r)[0] == pytest.approx(expected, rel=1e-7)


def test_vendi_is_the_entropy_of_the_kernels_eigenvalues(three):
    """vendi-score 0.0.3's score_X, of the N x N kernel; ours decomposes d x d."""
    x, _, _ = three
    assert score(Vendi(), x)[0] == pytest.approx(1.9990500902178, rel=1e-9)
    assert score(Vendi(), np.eye(5, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])[0] == pytest.approx(3)
    assert score(Vendi(), np.ones((4, 3), np.float32))[0] == pytest.approx(1)
    few = features(3, 6)
    eigenvalues = np.linalg.eigvalsh(directions(few) @ directions(few).T / 3)
    assert score(Vendi(), few)[0] == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-9)


def test_mind_is_the_papers_formula_at_equal_numbers(three):
    """3 d mean over u and ranks of (sorted u.x - sorted u.r)^2, as public code has it, with our directions."""
    x, r, _ = three
    assert score(MIND(), x[:131], features=r)[0] == pytest.approx(1.1435128317119, rel=1e-9)
    u = mind.unit_vectors(range(20), 6)
    assert np.allclose(np.linalg.norm(u, axis=1), 1)
    gaps = np.sort(x[:131] @ u.T, axis=0) - np.sort(r @ u.T, axis=0)
    assert score(MIND(directions=20), x[:131], features=r)[0] == pytest.approx(18 * (gaps**2).mean(), rel=1e-5)


def test_mind_couples_unequal_numbers_by_quantiles(three):
    """As equal numbers do if each sample is repeated: the empirical distribution is the same."""
    x, r, _ = three
    x, r = x[:30], r[:20]
    expected = score(MIND(directions=9), np.repeat(x, 2, axis=0), features=np.repeat(r, 3, axis=0))[0]
    assert score(MIND(directions=9), x, features=r)[0] == pytest.approx(expected, rel=1e-12)


def test_authenticity_is_dgm_evals_share(three):
    x, r, _ = three
    assert score(Authenticity(), x, features=r)[0] == pytest.approx(0.48)
    assert score(Authenticity(), r + np.float32(1e-4), features=r)[0] == 0  # copies
    near = np.sqrt(pairs(x, r))
    among = np.sqrt(pairs(r, r)) + np.diag(np.full(len(r), np.inf))
    assert score(Authenticity(), x, features=r)[0] == (among.min(1)[near.argmin(1)] < near.min(1)).mean()


def test_fld_is_its_authors_code(three):
    """fld/MoG.py of marcojira/fld in float64, with our order of the training images in place of a random one."""
    x, r, h = three
    assert score(FLD(), x, features=r, held_out=h)[0] == pytest.approx(-0.8381675898499, abs=1e-5)
    copies = score(FLD(), r[:100], features=r, held_out=h)[0]
    assert copies > 1e4  # a copy's Gaussian is so narrow that it explains no new image


def test_flds_gradients_are_those_of_the_likelihood():
    """Towards the log variances, by automatic differentiation of the formula."""
    x, r = (torch.from_numpy(features(n, 4, seed=n)) for n in (12, 17))
    log_variances, origin = torch.randn(12, generator=torch.Generator().manual_seed(0)), torch.full((1,), 0.3)
    to_mean = fld.ORIGIN * (r - r.mean(0)).square().sum(1, keepdim=True)
    gradients = [torch.zeros(12), torch.zeros(1)]
    fld._add_gradients(torch.cdist(r, x) ** 2, to_mean, [log_variances, origin], gradients, 4, 17)
    a, b = log_variances.clone().requires_grad_(), origin.clone().requires_grad_()
    parts = torch.distributions.Normal(x, (a / 2).exp()[:, None]).log_prob(r[:, None]).sum(-1) - np.log(12)
    one = -to_mean / (2 * b.exp()) - 2 * (b + np.log(2 * np.pi))
    (-torch.cat([parts, one], 1).logsumexp(1).mean() / 4).backward()
    assert torch.allclose(gradients[0], a.grad, rtol=1e-4, atol=1e-6)
    assert torch.allclose(gradients[1], b.grad, rtol=1e-4, atol=1e-6)


def test_fd_ratio_is_two_distances_at_equal_n(three):
    x, r, h = three
    at = {}
    for name, rows in (("samples", x), ("held-out", h)):
        order = noise.permutation(0, 0, len(rows), noise.HALVES)
        at[name] = score(FID(), rows[np.sort(order[:90])] if len(rows) > 90 else rows, features=r)[1]
    value, one, _ = score(FDRatio(), x, features=r, held_out=h)
    assert value == pytest.approx(at["samples"]["value"] / at["held-out"]["value"], rel=1e-9)
    limit = score(FID(), x, features=r)[1]["extrapolated"]
    assert one["extrapolated"] == pytest.approx(limit / at["held-out"]["value"], rel=1e-9)
    moments = {"mean": r.mean(0, dtype=float), "cov": np.cov(r.T.astype(float))}
    assert score(FDRatio(), x, held_out=h, **moments)[0] == pytest.approx(value, rel=1e-6)
    assert score(FDRatio(), h, features=r, held_out=h)[0] == pytest.approx(1)


def test_fd_ratio_uses_every_part_of_the_larger_set(three):
    """The mean over all disjoint parts of n rows, and not one of them."""
    _, r, h = three
    x = features(95, 6, seed=5)
    order = noise.permutation(0, 0, 95, noise.HALVES)
    parts = [score(FID(), x[np.sort(order[i : i + 30])], features=r)[0] for i in (0, 30, 60)]
    expected = np.mean(parts) / score(FID(), h[:30], features=r)[0]
    assert score(FDRatio(), x, features=r, held_out=h[:30])[0] == pytest.approx(expected, rel=1e-9)


def test_fd_ratio_says_what_too_few_images_lack(three):
    x, r, h = three
    one = score(FDRatio(), x, features=r, held_out=h[:6])[1]
    assert one["reason"] == (
        "no interval: the smaller of samples and held-out images, 6, is not above 6, the reference's dimension"
    )
    assert (one["low"], one["extrapolated"] is None) == (None, False)
    one = score(FDRatio(), x[:12], features=r, held_out=h)[1]
    assert one["reason"] == "no extrapolated value: N/2 = 6 is not above 6, the reference's dimension"
    assert (one["low"] is None, one["extrapolated"]) == (False, None)


# Intervals


def shifted(n, seed):
    """Skewed features, and a reference that differs in mean and spread."""
    rng = np.random.default_rng(seed)
    return (rng.gamma(2.0, size=(n, 4)) * [1, 1.2, 0.8, 1.5] + [0.3, 0, 0, 0.2]).astype(np.float32)


@pytest.mark.parametrize(
    "metric", [CMMD(), MIND(directions=20), Vendi(), Authenticity(), FDRatio()], ids=lambda m: m.names[0]
)
@pytest.mark.parametrize("tiles", ["one tile"], indirect=True)
def test_the_interval_has_the_width_of_the_spread_over_samples(metric, tiles):
    """Its half width over 1.96 is the standard deviation of the value over 60 sets of samples, within a third."""
    rng = np.random.default_rng(7)
    r = rng.gamma(2.0, size=(400, 4)).astype(np.float32)
    values, halves = [], []
    for seed in range(60):
        h = rng.gamma(2.0, size=(200, 4)).astype(np.float32)
        value, one, influence = score(metric, shifted(200, seed), features=r, held_out=h)
        values.append(value)
        halves.append((one["high"] - one["low"]) / 2 / 1.96)
        assert abs(influence.mean()) <= 1e-3 * np.abs(influence).max()
    assert 0.66 <= np.mean(halves) / np.std(values, ddof=1) <= 1.5


@pytest.mark.parametrize("metric", [CMMD(), MIND(directions=20), Vendi()], ids=lambda m: m.names[0])
def test_an_influence_is_how_far_a_sample_moves_the_value(metric):
    """The value with one sample counted twice moves by IF / N to first order. Paired, equal cells have no width."""
    x, r = shifted(300, 1), shifted(200, 2) * np.float32(1.1)
    value, _, influence = score(metric, x, features=r)
    moved = [301 * (score(metric, np.concatenate([x, x[i : i + 1]]), features=r)[0] - value) for i in range(40)]
    slope, _ = np.polyfit(influence[:40], moved, 1)
    assert np.corrcoef(influence[:40], moved)[0, 1] >= 0.99
    assert slope == pytest.approx(1, rel=0.1)
    assert paired_difference(value, influence, value, influence) == (0, 0, 0)


# Shared work, and bad input


OVER_PAIRS = (KID(), CMMD(), PrecisionRecall(), DensityCoverage(), Memorisation(), Authenticity())


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (OVER_PAIRS, [(131, 131), (150, 131), (150, 150)]),
        (OVER_PAIRS[:3][::-1], [(131, 131), (150, 131), (150, 150)]),
        (OVER_PAIRS[3:], [(131, 131), (150, 131)]),  # no pair of samples
        # Recall is last, and the balls of samples that it needs were not there: once more with the reference.
        (OVER_PAIRS[2:][::-1], [(131, 131), (150, 131), (150, 131), (150, 150)]),
    ],
    ids=["all", "reversed", "without pairs of samples", "recall last"],
)
def test_metrics_over_pairs_compute_each_matrix_once(metrics, expected, three, monkeypatch):
    x, r, _ = three
    passes, products = [], neighbours.products
    monkeypatch.setattr(neighbours, "products", lambda a, b: passes.append((len(a), len(b))) or products(a, b))
    for metric in metrics:
        metric({"features": x}, {"features": r})
    assert sorted(passes) == expected


def test_training_images_as_samples_are_nearest_to_themselves(three):
    _, r, _ = three
    assert score(Memorisation(), r.copy(), features=r)[0] == 1
    assert score(Authenticity(), r.copy(), features=r)[0] == 0


def test_values_do_not_depend_on_the_metrics_before_them(three):
    x, r, _ = three
    metrics = (*OVER_PAIRS, DensityCoverage(k=2), PrecisionRecall(k=7))

    def values(metric):
        return metric({"features": x}, {"features": r})["values"]

    expected = []
    for metric in metrics:
        cache._kept.clear()
        expected.append(values(metric))
    for order in (metrics, metrics[::-1]):
        cache._kept.clear()
        together = {id(metric): values(metric) for metric in order}
        assert [together[id(metric)] for metric in metrics] == expected


@pytest.mark.parametrize("metric", EVERY, ids=lambda m: m.names[0])
def test_bad_input_is_named(metric, three):
    x, r, h = (a.copy() for a in three)
    compares = {"features", "held_out"} if metric.against else {"features"}
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="sample features: row 3 of 150 is not finite"):
        score(metric, x, features=r, held_out=h)
    x[3, 1] = 0
    with pytest.raises(ValueError, match=f"at least {metric.least} sample features are needed; got {metric.least - 1}"):
        score(metric, x[: metric.least - 1], features=r, held_out=h)
    if isinstance(metric, Vendi):
        return
    with pytest.raises(ValueError, match=r"sample features have 6 columns, reference features 5|held-out .* 5"):
        score(metric, x, features=r[:, :5], held_out=h[:, :5])
    if "held_out" in compares:
        with pytest.raises(ValueError, match="there are no held-out features"):
            score(metric, x, features=r)


def test_rows_without_direction_and_a_held_out_set_that_is_the_training_set(three):
    x, r, h = (a.copy() for a in three)
    x[5] = 0
    for metric in (CMMD(), Vendi()):
        with pytest.raises(ValueError, match="sample features: row 5 of 150 is all zero: no direction"):
            score(metric, x, features=r)
    h[:, 2] = 1
    with pytest.raises(ValueError, match="column 2 is equal in all 90 held-out images"):
        score(FLD(), x, features=r, held_out=h)
    with pytest.raises(ValueError, match="the held-out images are at distance 0 from the training images"):
        score(FDRatio(), x, features=r, held_out=r)


def test_equal_cells_differ_in_fd_ratio_by_nothing_and_better_ones_by_less():
    """Paired differences of extrapolated ratios cover 0 for cells of one distribution, and find a worse one."""
    rng = np.random.default_rng(3)

    def drawn(n, shift=0.0):
        return (rng.gamma(2.0, size=(n, 8)) + shift).astype(np.float32)

    r, h, covered = drawn(2000), drawn(300), 0
    for _ in range(20):
        one, other, worse = (score(FDRatio(), drawn(500, s), features=r, held_out=h) for s in (0.1, 0.1, 0.4))
        _, low, high = paired_difference(one[1]["extrapolated"], one[2], other[1]["extrapolated"], other[2])
        covered += low <= 0 <= high
        _, low, _ = paired_difference(worse[1]["extrapolated"], worse[2], one[1]["extrapolated"], one[2])
        assert low > 0
    assert covered >= 17
