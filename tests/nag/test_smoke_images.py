"""A smoke run takes some of the user's own images where the folder is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nag.datasets.image_folder import ImageFolder
from nag.datasets.synthetic import SyntheticImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """80 grey images of class a, 20 of b and 4 of c; image i of a class has the level 2 i."""
    for name, count in (("a", 80), ("b", 20), ("c", 4)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((40, 40, 3), 2 * i, np.uint8)).save(tmp_path / "images" / name / f"{i:03d}.png")
    return tmp_path / "images"


def test_its_own_images_of_all_classes(folder: Path) -> None:
    data = ImageFolder(path=str(folder), resolution=256)
    small = data.smoke()
    assert isinstance(small, ImageFolder)
    assert (small.shape, small.num_classes) == ((3, 32, 32), 3)
    split = small.open("train")
    assert len(split) == 64
    labels = split.labels(np.arange(64))
    assert [int((labels == label).sum()) for label in range(3)] == [40, 20, 4]
    names, every = {file for file, _ in split.files}, {file for file, _ in data.open("train").files}
    assert names < every
    assert split.images(np.arange(3)).shape == (3, 3, 32, 32)
    assert [file for file, _ in split.files] == [file for file, _ in small.open("train").files]


def test_both_splits_and_flips(folder: Path) -> None:
    data = ImageFolder(path=str(folder), resolution=16, held_out=0.5, flip=True, limit=10)
    train, held_out = data.open("train"), data.open("held_out")
    assert (train.originals, len(train), len(held_out)) == (10, 20, 10)
    assert not {file for file, _ in train.files} & {file for file, _ in held_out.files}


def test_without_a_folder_they_are_synthetic(tmp_path: Path) -> None:
    small = ImageFolder(path=str(tmp_path / "none"), resolution=64).smoke()
    assert isinstance(small, SyntheticImages)
    (tmp_path / "bare").mkdir()
    assert isinstance(ImageFolder(path=str(tmp_path / "bare"), resolution=64).smoke(), SyntheticImages)
