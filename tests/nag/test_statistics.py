"""Published reference statistics are read and checked; samples are exported for the official evaluator in a stream."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nag.reference_statistics import read_statistics, reference_images, write_adm

rng = np.random.default_rng(0)
FEATURES, SPATIAL = rng.normal(size=(50, 8)), rng.normal(size=(50, 5))
IMAGES = rng.integers(0, 256, (25, 6, 6, 3), dtype=np.uint8)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.cov(x, rowvar=False)


def adm(path, **changes) -> str:
    (mu, sigma), (mu_s, sigma_s) = moments(FEATURES), moments(SPATIAL)
    arrays = {"mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s, "arr_0": IMAGES} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def test_adm_s_form(tmp_path):
    path = adm(tmp_path / "ref.npz")
    found = read_statistics(path, {"features": 8, "spatial": 5})
    assert list(found) == ["features", "spatial"]
    for output, x in (("features", FEATURES), ("spatial", SPATIAL)):
        mean, cov = moments(x)
        assert (found[output].mean == mean).all()
        assert np.allclose(found[output].cov, cov, rtol=1e-15, atol=0)
    assert (reference_images(path) == IMAGES).all()


def test_clean_fid_s_form_and_float32(tmp_path):
    mean, cov = moments(FEATURES)
    np.savez(tmp_path / "ref.npz", mu=mean.astype(np.float32), sigma=cov.astype(np.float32))
    (found,) = read_statistics(str(tmp_path / "ref.npz")).values()
    assert found.mean.dtype == found.cov.dtype == np.float64
    assert np.allclose(found.cov, cov, rtol=1e-5, atol=1e-6)
    assert (found.cov == found.cov.T).all()
    assert reference_images(str(tmp_path / "ref.npz")) is None


MEAN, COV = moments(FEATURES)
LOPSIDED, NEGATIVE = COV.copy(), COV.copy()
LOPSIDED[0, 1] += 0.1
NEGATIVE[3, 3] = -1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mu": None}, "has no mu and sigma; it has sigma, mu_s, sigma_s, arr_0"),
        ({"mu": MEAN[:7]}, r"mu is float64 \(7,\) and sigma float64 \(8, 8\); they must be"),
        ({"sigma": COV[0]}, r"sigma float64 \(8,\)"),
        ({"mu": MEAN.astype(int)}, "mu is int64"),
        ({"mu": MEAN * np.nan}, "mu has values that are not finite"),
        ({"sigma_s": np.full((5, 5), np.inf)}, "sigma_s has values that are not finite"),
        ({"sigma": LOPSIDED}, "sigma is not a covariance matrix"),
        ({"sigma": NEGATIVE}, "sigma is not a covariance matrix"),
        ({"sigma": np.array([None])}, "pickled"),
    ],
)
def test_what_are_no_statistics_is_named(tmp_path, changes, words):
    path = adm(tmp_path / "ref.npz", **changes)
    with pytest.raises(ValueError, match=rf"ref\.npz.*{words}"):
        read_statistics(path)


def test_another_extractor_is_named(tmp_path):
    path = adm(tmp_path / "ref.npz")
    with pytest.raises(ValueError, match=r"ref\.npz: mu has 8 dimensions, the extractor's features 2048"):
        read_statistics(path, {"features": 2048})
    with pytest.raises(ValueError, match=r"ref\.npz: mu_s has 5 dimensions"):
        read_statistics(path, {"features": 8, "spatial": 2023})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_statistics(str(tmp_path / "nowhere.npz"))
    with pytest.raises(ValueError, match="arr_0 is float64"):
        reference_images(adm(tmp_path / "ref.npz", arr_0=FEATURES))


def test_export_is_what_numpy_reads(tmp_path):
    path = tmp_path / "samples.npz"
    labels = np.arange(25, dtype=np.int32)
    write_adm(str(path), (IMAGES[i : i + 7] for i in range(0, 25, 7)), 25, labels)
    with np.load(path, allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1"]
        assert (found["arr_0"] == IMAGES).all()
        assert found["arr_1"].dtype == np.int64
        assert (found["arr_1"] == labels).all()
    assert (reference_images(str(path)) == IMAGES).all()
    again = tmp_path / "again.npz"
    write_adm(str(again), [IMAGES], 25, labels)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([IMAGES[:20]], "25 images were announced, 20 came"),
        ([IMAGES, IMAGES], "25 images were announced, 50 came"),
        ([], "0 came"),
        ([IMAGES.astype(np.float32)], "got float32"),
        ([IMAGES[:5], IMAGES[5:, :4]], r"of one size, got uint8 \(20, 4, 6, 3\)"),
        ([IMAGES[0]], r"got uint8 \(6, 6, 3\)"),
    ],
)
def test_what_does_not_fit_leaves_no_file_and_the_old_one(tmp_path, parts, words):
    path = tmp_path / "samples.npz"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=words):
        write_adm(str(path), parts, 25)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_labels_that_do_not_fit_are_refused(tmp_path):
    for labels in (np.arange(24), np.zeros(25)):
        with pytest.raises(ValueError, match="labels must be whole numbers"):
            write_adm(str(tmp_path / "x.npz"), [IMAGES], 25, labels)


def test_export_holds_one_part_at_a_time(tmp_path):
    """600 images of 128 x 128 are 29 MB, a part of 10 is 0.5 MB."""
    part = np.zeros((10, 128, 128, 3), np.uint8)
    tracemalloc.start()
    try:
        write_adm(str(tmp_path / "x.npz"), (part + 1 for _ in range(60)), 600)
        assert tracemalloc.get_traced_memory()[1] < 5 * part.nbytes
    finally:
        tracemalloc.stop()
    images = reference_images(str(tmp_path / "x.npz"))
    assert images is not None
    assert images.shape == (600, 128, 128, 3)
    assert (images == 1).all()
