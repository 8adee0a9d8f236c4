"""How an image is stored (grey, 16 bits, palettes, CMYK) does not change what a data set gives of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nag.datasets.dataset import to_uint8
from nag.datasets.image_folder import ImageFolder
from tests.nag.image_files import noise_image, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one(tmp_path: Path, image: Image.Image, name: str = "x.png", **options) -> np.ndarray:
    """(3, 8, 8) bytes of an image that is stored in some form and read back."""
    root = tmp_path / "one"
    save(noise_image(0), root / "a.png")
    image.save(root / name, **options)
    split = ImageFolder(path=str(root), resolution=8).open("train")
    row = [n for n, _ in split.files].index(name)
    return to_uint8(split.images(np.array([row]))[0])


def test_grey_is_repeated(tmp_path):
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (one(tmp_path, Image.fromarray(levels)) == levels).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, name):
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    found = one(tmp_path, Image.fromarray(levels), name)
    assert np.abs(found.astype(float) - levels / 257).max() <= 0.5


def test_transparency_is_dropped(tmp_path):
    levels = np.asarray(noise_image(5))
    alpha = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    found = one(tmp_path, Image.fromarray(np.concatenate([levels, alpha], axis=2)))
    assert (found == levels.transpose(2, 0, 1)).all()


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    found = one(tmp_path, image, transparency=bytes([0, 128]))
    assert (found == np.array([10, 20, 30])[:, None, None]).all()


def test_cmyk_and_one_bit(tmp_path):
    found = one(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.tif")
    assert (found == np.array([255, 0, 0])[:, None, None]).all()
    assert (one(tmp_path, Image.new("1", (8, 8), 1), "y.png") == 255).all()


def test_the_camera_s_orientation_is_ignored(tmp_path):
    image, exif = noise_image(6), Image.Exif()
    exif[0x0112] = 6
    assert (one(tmp_path, image, exif=exif) == np.asarray(image).transpose(2, 0, 1)).all()
