"""What stands in for weights and folders under --smoke: made of nothing, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nag.autoencoders.block_means import BlockMeans
from nag.autoencoders.kl import Autoencoder
from nag.datasets.latents import encode_shard
from nag.datasets.synthetic import SyntheticImages
from nag.features.synthetic import SyntheticExtractor as Features
from nag.registry import METHODS, find


def images(n: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_the_means_of_blocks_and_decode_to_them():
    vae = BlockMeans().open()
    x = images()
    mean, std = vae.encode(x)
    assert mean.shape == std.shape == (3, *BlockMeans().latent_shape((3, 8, 8)))
    assert torch.allclose(mean[0, 1, 2, 3], x[0, 1, 4:6, 6:8].mean())
    decoded = vae.decode(mean)
    assert torch.allclose(decoded[0, 1, 4:6, 6:8], x[0, 1, 4:6, 6:8].mean().expand(2, 2))
    assert torch.allclose(vae.encode(decoded)[0][:, :3], mean[:, :3], atol=1e-6)
    assert std.min() > 0


def test_the_latents_of_a_mirrored_image_are_not_mirrored_latents():
    """As those of a real autoencoder, so that a mistake about flips is seen."""
    x = images()
    mean, mirrored = (BlockMeans().open().encode(each)[0] for each in (x, x.flip(3)))
    assert torch.allclose(mirrored[:, :3], mean.flip(3)[:, :3], atol=1e-6)
    assert not torch.allclose(mirrored, mean.flip(3), atol=1e-3)


def test_it_encodes_shards():
    split = SyntheticImages(classes=3, images=8, resolution=16).open("train")
    found = encode_shard(split, np.arange(8), Autoencoder(path="nowhere").smoke().open())
    assert found["posterior"].shape == (8, 2, 2, 4, 8, 8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 8), (3, 8, 7)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"block_means (takes 3|needs)"):
        BlockMeans().latent_shape(shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_tell_images_apart_and_have_the_names(channels):
    extract = Features(of="x", outputs=("features", "spatial")).open()
    x = (images()[:, :channels] * 127 + 128).to(torch.uint8)
    found = extract(x)
    assert {name: tuple(rows.shape) for name, rows in found.items()} == {"features": (3, 8), "spatial": (3, 8)}
    assert not torch.allclose(found["features"], found["spatial"])
    assert (found["features"][0] - found["features"][1]).abs().max() > 0.01
    assert torch.equal(found["features"], Features(of="y").open()(x)["features"])


def test_every_extractor_that_reads_weights_has_a_stand_in():
    """With the names of its outputs, so that the same metrics can be fed."""
    for name in METHODS["features"]:
        cls = find("features", name)
        if not cls.FILES:
            continue
        given = {"timm": {"model": "m", "weights": "w"}, "torchscript": {"path": "p", "outputs": ("features", "more")}}
        extractor = cls(**given.get(name, {}))
        assert extractor.smoke() == Features(of=name, outputs=extractor.outputs)
