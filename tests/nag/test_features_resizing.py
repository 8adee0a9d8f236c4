"""Resizing in batches against the programs whose results it stands for."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from nag.features.resizing import resize

SIZES = [(32, 32), (64, 64), (299, 299), (298, 300), (256, 171), (301, 333), (333, 100), (512, 384), (1, 7), (700, 2)]


def images(height, width, channels=3, n=3, seed=0):
    """Noise, the hardest there is: neighbours differ by all of 0 .. 255."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8))


def one_by_one(function, batch):
    """Of a function of (H, W, C) arrays."""
    return torch.stack([torch.from_numpy(function(x.permute(1, 2, 0).numpy())).permute(2, 0, 1) for x in batch])


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_bicubic_is_clean_fids_pillow_resize(shape):
    """Asked: within 0.01 of 255."""
    pillow = pytest.importorskip("cleanfid.resize").make_resizer("PIL", False, "bicubic", (299, 299))
    batch = images(*shape)
    assert (resize(batch, 299, "bicubic") - one_by_one(pillow, batch)).abs().max() <= 1e-3


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [224, 33])
def test_quantised_is_pillow_on_eight_bits(kind, size):
    from PIL import Image

    def pillow(x):
        return np.array(Image.fromarray(x).resize((size, size), getattr(Image.Resampling, kind.upper())))

    for shape in ((32, 32), (171, 256), (301, 333), (64, 224)):  # of tall ones Pillow 13 does the other pass first
        batch = images(*shape)
        assert torch.equal(resize(batch, size, kind, quantised=True), one_by_one(pillow, batch).float())


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_tensorflow_is_the_resize_in_the_torchscript_file(shape):
    """There it is a grid of sampling points, half a pixel off."""
    batch = images(*shape)
    (n, channels, height, width), size = batch.shape, 299
    theta = torch.eye(2, 3)
    theta[0, 2] += 1 / width - 1 / size
    theta[1, 2] += 1 / height - 1 / size
    grid = affine_grid(theta.repeat(n, 1, 1), [n, channels, size, size], align_corners=False)
    expected = grid_sample(batch.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    resized = resize(batch, size, "tensorflow")
    assert (resized - expected).abs().max() <= 0.05  # the grid's places are float32
    assert torch.equal(resized[:, :, 0, 0], batch[:, :, 0, 0].float())  # corner on corner


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_pytorch_is_interpolate(shape):
    batch = images(*shape)
    expected = interpolate(batch.float(), (299, 299), mode="bilinear", align_corners=False)
    assert (resize(batch, 299, "pytorch") - expected).abs().max() <= 0.02  # its places are float32


@pytest.mark.parametrize("size", [37, 299])
def test_pytorch_bicubic_is_interpolate_and_is_not_clipped(size):
    batch = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(batch.double(), (size, size), mode="bicubic")
    assert not 0 <= float(expected.min()) <= float(expected.max()) <= 255
    assert (resize(batch, size, "pytorch_bicubic") - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("kind", ["bicubic", "bilinear", "tensorflow", "pytorch"])
def test_every_kind_keeps_a_flat_image_and_its_range(kind):
    flat = torch.full((1, 3, 40, 50), 200, dtype=torch.uint8)
    assert (resize(flat, 64, kind) - 200).abs().max() <= 1e-4
    edges = resize(images(40, 50) // 128 * 255, 64, kind)
    assert edges.min() >= 0
    assert edges.max() <= 255


def test_a_grey_image_becomes_three_equal_channels():
    grey = images(20, 30, channels=1)
    assert torch.equal(resize(grey, 64, "bicubic"), resize(grey.repeat(1, 3, 1, 1), 64, "bicubic"))


def test_an_image_does_not_depend_on_its_batch():
    batch = images(48, 36, n=7)
    alone = torch.cat([resize(x[None], 299, "bicubic") for x in batch])
    assert (resize(batch, 299, "bicubic") - alone).abs().max() <= 1e-4  # of 255
    assert resize(batch[:0], 299, "bicubic").shape == (0, 3, 299, 299)


def test_images_in_another_order_of_memory_are_the_same():
    batch = images(48, 36)
    stored = batch.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(resize(stored, 99, "bicubic"), resize(batch, 99, "bicubic"))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4, 8, 8, dtype=torch.uint8)],
    ids=["float", "no batch", "RGBA"],
)
def test_other_images_are_refused(wrong):
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, 1 or 3, H, W\); got torch"):
        resize(wrong, 299, "bicubic")


def test_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resize(images(5, 5), 8, "bicubic")
