"""Made-up images: functions of seed and index, and what `--smoke` puts in a folder's place."""

from __future__ import annotations

import numpy as np
import pytest

from nag.datasets.image_folder import ImageFolder
from nag.datasets.named import CUB200
from nag.datasets.synthetic import SyntheticImages


def test_images_are_functions_of_seed_and_index():
    split = SyntheticImages(classes=3, images=40, resolution=16).open("train")
    whole = split.images(np.arange(40))
    assert whole.shape == (40, 3, 16, 16)
    assert whole.dtype == np.float32
    assert np.abs(whole).max() <= 1
    assert (split.images(np.array([7, 3])) == whole[[7, 3]]).all()
    assert len(np.unique(whole.reshape(40, -1), axis=0)) == 40
    assert (
        SyntheticImages(classes=3, images=40, resolution=16, seed=1).open("train").images(np.arange(40)) != whole
    ).any()


def test_held_out_images_are_others():
    data = SyntheticImages(classes=3, images=40, resolution=8)
    train, held_out = data.open("train"), data.open("held_out")
    assert (len(train), len(held_out)) == (40, 10)
    both = np.concatenate([train.images(np.arange(40)), held_out.images(np.arange(10))])
    assert len(np.unique(both.reshape(50, -1), axis=0)) == 50
    assert held_out.labels(np.arange(3)).tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="unknown split"):
        data.open("val")


def test_a_class_can_be_told_by_its_colour():
    split = SyntheticImages(classes=4, images=200, resolution=16).open("train")
    colours, labels = split.images(np.arange(200)).max(axis=(2, 3)), split.labels(np.arange(200))
    means = np.stack([colours[labels == k][:25].mean(axis=0) for k in range(4)])
    guess = np.linalg.norm(colours[:, None] - means, axis=2).argmin(axis=1)
    assert (guess == labels).mean() > 0.9


def test_smoke_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other, birds = (
        ImageFolder(path="nowhere").smoke(),
        ImageFolder(path="elsewhere", resolution=16).smoke(),
        CUB200(path="nowhere", flip=True).smoke(),
    )
    assert (one.shape, other.shape, birds.num_classes) == ((3, 32, 32), (3, 16, 16), 200)
    assert one.seed != other.seed
    assert one.stores == ImageFolder.stores
