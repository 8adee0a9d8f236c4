"""Fréchet distances against SciPy's root and against singular values; what is made of them: FID, sFID, FID infinity."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from nag import noise
from nag.metrics import cache as kept
from nag.metrics.fid import FID
from nag.metrics.fid_infinity import FIDInfinity
from nag.metrics.frechet import Reference, frechet_distance
from nag.metrics.moments import moments
from nag.metrics.sfid import SFID
from tests.nag.simulated import gaussian, skewed


def features(n: int, d: int, seed: int = 0, decay: float = 0.5) -> np.ndarray:
    """Skewed; the spectrum of their covariance falls as i^(-2 decay)."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]
    return 0.2 + ((rng.gamma(2.0, size=(n, d)) - 2) / np.arange(1, d + 1) ** decay) @ turn


def by_scipy(mu1, cov1, mu2, cov2) -> float:
    """The form that papers compute: tr (S1 S2)^(1/2) by scipy.linalg.sqrtm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where a matrix is singular
        root = scipy.linalg.sqrtm(cov1 @ cov2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root).real)


def by_singular_values(x: np.ndarray, r: np.ndarray) -> float:
    """No covariance is formed: the last trace is the sum of the singular values of X R^T, X and R centred rows."""
    X, R = ((rows - rows.mean(axis=0)) / (len(rows) - 1) ** 0.5 for rows in (x, r))
    roots = scipy.linalg.svdvals(X @ R.T).sum()
    return float(((x.mean(axis=0) - r.mean(axis=0)) ** 2).sum() + (X**2).sum() + (R**2).sum() - 2 * roots)


CASES = {
    "full rank": lambda: (features(400, 48), 1.1 * features(500, 48, seed=1)),
    "steep": lambda: (features(400, 48, decay=2), 1.1 * features(500, 48, seed=1, decay=2)),
    "N below d": lambda: (features(30, 48), features(500, 48, seed=1)),
    "N and N_r below d": lambda: (features(30, 48), features(41, 48, seed=1)),
    "flat": lambda: (features(400, 48) * ([1] * 40 + [0] * 8), features(500, 48, seed=1) * ([0] * 5 + [1] * 43)),
    "repeated": lambda: (features(400, 24)[:, [*range(24), *range(24)]], features(500, 48, seed=1)),
    "apart": lambda: (features(400, 48) + 100, features(500, 48, seed=1)),
    "near": lambda: (features(400, 8), features(401, 8)),
}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("case", CASES)
def test_the_distance_is_right_also_where_covariances_are_singular(case, scale):
    x, r = CASES[case]()
    expected = by_singular_values(x, r) * scale**2
    a, b = moments(x * scale), moments(r * scale)
    there, back = frechet_distance(a.mean, a.cov, b.mean, b.cov), frechet_distance(b.mean, b.cov, a.mean, a.cov)
    # Where both are singular, rounding of 1e-16 in S is 1e-8 in its root; how much of it is there the BLAS decides.
    assert there == pytest.approx(expected, rel=1e-7)
    assert back == pytest.approx(expected, rel=1e-7)
    assert there == pytest.approx(by_scipy(a.mean, a.cov, b.mean, b.cov), rel=1e-6)
    assert Reference(b.mean, b.cov).influence(x * scale)[0] == pytest.approx(expected, rel=1e-7)


def test_equal_gaussians_are_at_no_distance():
    for x in (features(400, 48), features(30, 48)):
        known = moments(x)
        distance = frechet_distance(known.mean, known.cov, known.mean, known.cov)
        assert 0 <= distance < 1e-6 * known.cov.trace()


def test_both_factors_give_one_distance():
    """Cholesky's, and that from eigenvectors, which a nearly singular reference gets."""
    x, r = features(400, 32), features(500, 32, seed=1)
    r[:, 5] = r[:, 4] + 3e-6 * r[:, 5]
    seen, known = moments(x), moments(r)
    by_eigenvectors = Reference(known.mean, known.cov)
    assert not torch.equal(by_eigenvectors.F, by_eigenvectors.F.tril())
    assert by_eigenvectors.rank == 32
    expected = by_singular_values(x, r)
    assert by_eigenvectors.distance(seen.mean, seen.cov) == pytest.approx(expected, rel=1e-9)
    known = moments(features(500, 32, seed=1))
    by_cholesky = Reference(known.mean, known.cov)
    assert torch.equal(by_cholesky.F, by_cholesky.F.tril())
    np.testing.assert_allclose(by_cholesky.F @ by_cholesky.F.T, known.cov, atol=1e-14)


def test_the_rank_is_that_of_the_support():
    for rows, rank in ((features(500, 20), 20), (features(13, 20), 12), (features(50, 20) * ([0] * 3 + [1] * 17), 17)):
        known = moments(rows)
        assert Reference(known.mean, known.cov).rank == rank == np.linalg.matrix_rank(known.cov, hermitian=True)
    repeated = moments(features(500, 20)[:, [*range(20), 3, 7]])
    assert Reference(repeated.mean, repeated.cov).rank == 20


def test_tensors_stay_on_their_device(monkeypatch):
    """There may be no other device here; that nothing is fetched from it, or turned to an array, can be seen."""
    x, known = features(300, 6), moments(features(400, 6, seed=1))
    seen = moments(x)
    arrays = (seen.mean, seen.cov, known.mean, known.cov)
    expected = frechet_distance(*arrays)
    tensors = [torch.from_numpy(array) for array in arrays]

    def refuse(*_: object) -> None:
        raise AssertionError("taken off its device")

    for name in ("numpy", "cpu", "__array__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr(torch, "from_numpy", refuse)
    assert frechet_distance(*tensors) == expected
    assert frechet_distance(*(t.clone().requires_grad_() for t in tensors)) == expected


def test_arrays_that_cannot_be_written_and_lower_precision():
    known, seen = moments(features(400, 6)), moments(features(400, 6, seed=1))
    arrays = [seen.mean, seen.cov, known.mean, known.cov]
    expected = frechet_distance(*arrays)
    for array in arrays:
        array.setflags(write=False)
    assert frechet_distance(*arrays) == expected
    assert frechet_distance(*(array[::-1][::-1].astype(np.float32) for array in arrays)) == pytest.approx(
        expected, 1e-4
    )
    fortran = [np.asfortranarray(array) for array in arrays]
    assert frechet_distance(*fortran) == expected


# A reference of which only the moments are there, as those that others publish


def test_moments_alone_are_a_reference_for_the_distances(monkeypatch):
    x, r = features(301, 6), features(400, 6, seed=1)
    known = moments(r)
    for metric, output, suffix in (
        (FID(), "features", ""),
        (FIDInfinity(), "features", ""),
        (SFID(), "spatial", "_spatial"),
    ):
        alone = {f"mean{suffix}": known.mean, f"cov{suffix}": known.cov}
        monkeypatch.setattr(kept, "_kept", {})
        of_moments, of_rows, of_both = (metric({output: x}, ref) for ref in (alone, {output: r}, {output: r} | alone))
        assert of_moments["values"] == of_rows["values"] == of_both["values"]
        assert (of_moments["arrays"]["influence"] == of_rows["arrays"]["influence"]).all()


def test_sfid_is_fid_of_the_spatial_output():
    x, r = features(301, 6), features(400, 6, seed=1)
    other = {"features": features(9, 2)}
    ours, fid = SFID()({"spatial": x} | other, {"spatial": r} | other), FID()({"features": x}, {"features": r})
    assert ours["values"]["sfid"] == fid["values"]["fid"]
    assert (ours["arrays"]["influence"] == fid["arrays"]["influence"]).all()


def test_fid_against_held_out_images():
    x, r, held_out = features(301, 6), features(400, 6, seed=1), features(200, 6, seed=2)
    reference = {"features": r, "held_out": held_out}
    metric = FID(against="held_out")
    assert (metric.names, metric.lower_is_better) == (("fid_held_out",), {"fid_held_out": True})
    assert (FID().names, FID().lower_is_better) == (("fid",), {"fid": True})
    expected = FID()({"features": x}, {"features": held_out})["values"]["fid"]
    assert metric({"features": x}, reference)["values"] == {"fid_held_out": expected}
    assert FID()({"features": x}, reference)["values"] == FID()({"features": x}, {"features": r})["values"]


def test_fid_infinity_is_a_fit_of_second_order_with_the_interval_of_fid():
    x, r = features(303, 6), features(400, 6, seed=1)
    fid, ours = (metric({"features": x}, {"features": r}) for metric in (FID(), FIDInfinity()))
    one, other = fid["values"]["fid"], ours["values"]["fid_infinity"]
    known = moments(r)
    target = Reference(known.mean, known.cov)
    sizes, means = [], []
    for count in (1, 2, 4):
        found = [moments(x[part]) for part in noise.parts(303, count)]
        sizes.append(count / 303)
        means.append(np.mean([target.distance(part.mean, part.cov) for part in found]))
    assert other["value"] == other["extrapolated"] == pytest.approx(np.polyfit(sizes, means, 2)[-1], rel=1e-8)
    assert other["high"] - other["low"] == pytest.approx(one["high"] - one["low"], rel=1e-6)
    assert (fid["arrays"]["influence"] == ours["arrays"]["influence"]).all()
    few = FIDInfinity()({"features": x[:59]}, {"features": r})["values"]["fid_infinity"]
    assert (few["value"], few["low"], few["high"]) == (None, None, None)
    assert few["reason"] == "no value: N = 59 is below 10 times the reference's dimension 6"
    assert FIDInfinity()({"features": x[:60]}, {"features": r})["values"]["fid_infinity"]["value"] is not None


def test_fid_infinity_covers_the_limit_and_is_above_the_line_alone():
    """At ten samples per dimension, the fewest it takes. More of it: `python -m benchmarks.coverage limit`."""
    d, n, repetitions = 96, 960, 60
    root, reference = gaussian(d)
    gap = (0.1 * (root**2).sum() / d) ** 0.5 * np.ones(d)
    rng, fits, lines, covered = np.random.default_rng(0), [], [], []
    for _ in range(repetitions):
        samples = {"features": gap + skewed(rng, n, d) @ root.T}
        fit = FIDInfinity()(samples, reference)["values"]["fid_infinity"]
        fits.append(fit["value"])
        lines.append(FID()(samples, reference)["values"]["fid"]["extrapolated"])
        covered.append(fit["low"] <= gap @ gap <= fit["high"])
    assert abs(np.mean(fits) - gap @ gap) < 3 * np.std(fits) / repetitions**0.5
    change = np.array(fits) - lines
    assert change.mean() > 3 * change.std() / repetitions**0.5
    assert 0.85 <= np.mean(covered) <= 1


@pytest.mark.parametrize("metric", [FID(), FIDInfinity(), SFID()])
@pytest.mark.parametrize("classes", [10, 397])
def test_neither_labels_in_turn_nor_sorted_samples_make_unlike_halves(metric, classes):
    """Classes far apart: in runs of neighbours the two halves have other classes, and the extrapolation falls by the
    distance between them.
    """
    output = "spatial" if metric == SFID() else "features"
    centres, r = 3 * features(classes, 6, seed=5), features(400, 6, seed=1)
    noise_of = features(1000, 6, seed=2)
    found = {}
    for name, labels in (
        ("drawn", np.random.default_rng(0).integers(0, classes, 1000)),
        ("in turn", np.arange(1000) % classes),
        ("sorted", np.arange(1000) * classes // 1000),
    ):
        score = metric({output: noise_of + centres[labels]}, {output: r})["values"][metric.names[0]]
        found[name] = (score["high"] - score["low"]) / 2, score["extrapolated"] - score["value"]
    for half, change in found.values():
        assert abs(change) < half


@pytest.mark.parametrize("metric", [FID(), FIDInfinity(), FID(against="held_out"), SFID()])
def test_what_cannot_be_scored_is_named(metric):
    output = "spatial" if metric == SFID() else "features"
    source = "held_out" if "fid_held_out" in metric.names else output
    known = {"features": "", "spatial": "_spatial", "held_out": "_held_out"}[source]
    what = "features" if source == "features" else f"{source} features"
    good = features(50, 4)
    bad = np.where(good == good[17, 2], np.nan, good)
    for samples, reference, message in (
        ({output: bad}, {source: good}, "sample .*features: row 17 of 50 is not finite"),
        ({output: good}, {source: bad}, f"reference {what}: row 17 of 50 is not finite"),
        ({output: good[:1]}, {source: good}, "at least 2 sample .*features are needed; got 1"),
        ({output: good}, {source: good[:1]}, f"at least 2 reference {what} are needed; got 1"),
        ({output: good}, {source: good[:, :3]}, f"sample features have 4 columns, reference {what} 3"),
        ({"logits": good}, {source: good}, r"no sample .*features: .*there is: logits"),
        ({output: good}, {"labels": good}, f"neither reference {what} nor their moments, mean{known} and cov{known}"),
        ({output: good}, {f"mean{known}": np.ones(3), f"cov{known}": np.eye(3)}, "4 columns, reference .* 3"),
        ({output: good}, {f"mean{known}": np.ones(4), f"cov{known}": np.eye(3)}, r"got \(4,\) and \(3, 3\)"),
        ({output: good}, {f"mean{known}": np.ones(4), f"cov{known}": np.diag([1, 1, 1, np.nan])}, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(samples, reference)


def test_the_moments_of_samples_are_taken_once_for_training_and_held_out_images(monkeypatch):
    """Of each extractor's output, and the values are those of moments taken anew."""
    import nag.metrics.fid as module
    from nag.metrics.sfid import SFID

    rng = np.random.default_rng(3)
    x, spatial, r, h = (rng.normal(size=(n, d)).astype(np.float32) for n, d in ((60, 5), (60, 7), (80, 5), (70, 5)))
    samples = {"features": x, "spatial": spatial}
    reference = {"features": r, "held_out": h, "spatial": rng.normal(size=(80, 7)).astype(np.float32)}
    anew = module.score_of(x, module.gaussian([h]), module.halves_of(x))
    taken, halves_of = [], module.halves_of
    monkeypatch.setattr(module, "halves_of", lambda rows: taken.append(rows.shape) or halves_of(rows))
    FID()(samples, reference), SFID()(samples, reference)
    found = FID(against="held_out")(samples, reference)
    assert taken == [(60, 5), (60, 7)]
    assert found["values"]["fid_held_out"] == anew[0]
    assert found["arrays"]["influence"].tobytes() == anew[1].tobytes()
