import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nag.datasets.dataset import ArraySplit, to_uint8
from nag.datasets.digits import Digits
from nag.noise import permutation


def everything(split: ArraySplit) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(len(split))
    return split.images(indices), split.labels(indices)


@pytest.fixture(scope="module")
def parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: everything(Digits().open(name)) for name in ("train", "held_out")}


def test_the_two_parts_are_the_whole_set_once(parts):
    train, held_out = (
        [(*image.ravel(), label) for image, label in zip(images, labels, strict=True)]
        for images, labels in parts.values()
    )
    file = load_digits()
    expected = [(*image, label) for image, label in zip(file.data / 8 - 1, file.target, strict=True)]
    assert sorted(train + held_out) == sorted(expected)
    assert sorted(held_out) == sorted(expected[4::5])


def test_they_are_scikit_learns_to_the_bit(parts):
    """Read from its file, in our order: as if load_digits had read them."""
    file = load_digits()
    order = permutation(0, 0, len(file.target))
    for name, (images, labels) in parts.items():
        rows = order[(order % 5 == 4) == (name == "held_out")]
        assert images.tobytes() == (file.images[rows, None] / 8 - 1).astype(np.float32).tobytes()
        np.testing.assert_array_equal(labels, file.target[rows], strict=True)


def test_images_and_labels_have_the_promised_types_and_ranges(parts):
    for images, labels in parts.values():
        assert images.dtype == np.float32
        assert images.shape[1:] == Digits.shape
        assert (images.min(), images.max()) == (-1, 1)
        assert labels.dtype == np.int64
        assert set(labels) == set(range(Digits.num_classes))


def test_any_run_of_indices_is_a_fair_draw(parts):
    """In the file's order neighbours are alike; the halves of a part would then differ more than two random halves."""
    images, labels = parts["held_out"]
    for array in (images.reshape(len(labels), -1), np.eye(10)[labels]):
        x = array.astype(float)
        half = len(x) // 2
        gap = np.linalg.norm(x[:half].mean(axis=0) - x[half:].mean(axis=0))
        rng = np.random.default_rng(0)
        others = []
        for _ in range(200):
            y = rng.permutation(x)
            others.append(np.linalg.norm(y[:half].mean(axis=0) - y[half:].mean(axis=0)))
        assert gap < np.quantile(others, 0.995)


def test_reading_by_index_is_the_same_every_time():
    a, b = Digits().open("train"), Digits().open("train")
    indices = np.array([5, 3, 5])
    assert (a.images(indices) == b.images(indices)).all()
    assert (a.images(indices)[0] == a.images(np.array([5]))[0]).all()
    assert (a.labels(indices) == b.labels(indices)).all()


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held_out"):
        Digits().open("test")


def test_a_split_whose_labels_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 1, 8, 8\) and \(2,\)"):
        ArraySplit(np.zeros((3, 1, 8, 8)), np.zeros(2, dtype=int))


def test_quantising_clips_and_rounds():
    x = np.array([-7, -1, -0.5, 0, 1, 7], dtype=np.float32)
    assert to_uint8(x).tolist() == [0, 0, 64, 128, 255, 255]  # 63.75, and 127.5 to the even 128


def test_an_array_and_a_tensor_quantise_alike_and_levels_come_back():
    x = np.random.default_rng(0).uniform(-1.2, 1.2, 10_000).astype(np.float32)
    assert to_uint8(torch.from_numpy(x)).dtype == torch.uint8
    assert (to_uint8(torch.from_numpy(x)).numpy() == to_uint8(x)).all()
    levels = np.arange(256, dtype=np.uint8)
    assert (to_uint8(levels.astype(np.float32) / 127.5 - 1) == levels).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_pixel_that_is_not_finite_is_never_stored(bad):
    for x in (np.array([0, bad], dtype=np.float32), torch.tensor([0, bad])):
        with pytest.raises(ValueError, match="not finite"):
            to_uint8(x)
