"""Latents: what is written of images and their flips, and what a training reads of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from nag import noise
from nag.datasets.dataset import ArraySplit, originals
from nag.datasets.latents import LatentSplit, encode_shard

N, CLASSES = 23, 4


class Halves:
    """Stands for a VAE: mean and std are known functions of the image, not symmetric under flips."""

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images[:, :2, ::2, ::2] * 3, images[:, 1:3, 1::2, ::2].abs() + 0.5


class Flipped(ArraySplit):
    """With its flips after the originals, as an image folder's training split has them."""

    originals = N

    def __init__(self, images, labels):
        super().__init__(np.concatenate([images, images[..., ::-1]]), np.concatenate([labels, labels]))


rng = np.random.default_rng(0)
IMAGES = rng.uniform(-1, 1, (N, 3, 8, 8)).astype(np.float32)
LABELS = rng.integers(0, CLASSES, N)
SPLIT = ArraySplit(IMAGES, LABELS)


def shards(folder, split=SPLIT, ends=(0, 10, 20, N), dtype="float32") -> list[str]:
    paths = []
    for first, end in itertools.pairwise(ends):
        arrays = encode_shard(split, np.arange(first, end), Halves(), batch=4, dtype=dtype)
        paths.append(str(folder / f"{first:06d}.safetensors"))
        save_file(arrays, paths[-1], {"what": "a header of any length"})
    return paths


def test_a_shard_has_both_flips_mean_and_std():
    found = encode_shard(SPLIT, np.array([3, 0, 7]), Halves(), batch=2, dtype="float32")
    assert found["posterior"].shape == (3, 2, 2, 2, 4, 4)
    assert found["labels"].tolist() == LABELS[[3, 0, 7]].tolist()
    for row, index in enumerate((3, 0, 7)):
        for flip in (0, 1):
            image = torch.from_numpy(IMAGES[index : index + 1].copy())
            for k, part in enumerate(Halves().encode(image.flip(3) if flip else image)):
                assert (found["posterior"][row, flip, k] == part[0].numpy()).all()


def test_neither_batch_nor_shards_nor_the_split_s_own_flips_matter(tmp_path):
    whole = encode_shard(SPLIT, np.arange(N), Halves(), dtype="float32")["posterior"]
    for split, ends in ((SPLIT, (0, 10, 20, N)), (Flipped(IMAGES, LABELS), (0, 1, N))):
        found = LatentSplit(shards(tmp_path, split, ends), flip=True)
        assert (len(found), originals(found), found.shape) == (2 * N, N, (2, 4, 4))
        assert (found.images(np.arange(2 * N)) == np.concatenate([whole[:, 0, 0], whole[:, 1, 0]])).all()
        assert (found.labels(np.arange(2 * N)) == np.concatenate([LABELS, LABELS])).all()


def test_only_originals_are_encoded():
    with pytest.raises(ValueError, match="images 5 to 23 of 23; flips are made here"):
        encode_shard(Flipped(IMAGES, LABELS), np.array([5, N]), Halves())


def test_what_else_is_made_in_the_same_pass_sees_every_image_once():
    seen: list[np.ndarray] = []
    encode_shard(SPLIT, np.arange(N), Halves(), batch=5, see=lambda images, labels: seen.append(images))
    assert (np.concatenate(seen) == IMAGES).all()


def test_float16_is_the_rounded_value(tmp_path):
    rough, exact = (LatentSplit(shards(tmp_path, dtype=dtype)) for dtype in ("float16", "float32"))
    a, b = (split.images(np.arange(N)) for split in (rough, exact))
    assert a.dtype == np.float32
    assert 0 < np.abs(a - b).max() <= 2**-11 * np.abs(b).max()
    assert len(rough) == N


def test_draws_have_the_posterior_s_moments(tmp_path):
    split = LatentSplit(shards(tmp_path), flip=True)
    index = np.full(4000, N + 2)
    draws = split.draw(index, seed=1, step=5, place=np.arange(4000))
    mean, std = encode_shard(SPLIT, np.array([2]), Halves(), dtype="float32")["posterior"][0, 1]
    assert draws.dtype == np.float32
    assert np.abs((draws.mean(axis=0) - mean) / std).max() < 5 / np.sqrt(4000)
    assert np.abs(draws.std(axis=0) / std - 1).max() < 5 / np.sqrt(8000)


def test_a_draw_belongs_to_seed_step_and_place(tmp_path):
    split, index = LatentSplit(shards(tmp_path)), np.arange(12)
    whole = split.draw(index, 3, 7, index)
    parts = np.concatenate([split.draw(index[i : i + 5], 3, 7, index[i : i + 5]) for i in range(0, 12, 5)])
    assert (parts == whole).all()
    again = LatentSplit(shards(tmp_path, ends=(0, 4, N)))
    assert (again.draw(index, 3, 7, index) == whole).all()
    for other in ((4, 7, index), (3, 8, index), (3, 7, index + 1)):
        assert (split.draw(index, *other) != whole).mean() > 0.99


def test_its_noise_is_a_stream_of_its_own():
    others = [value for name, value in vars(noise).items() if name.isupper() and isinstance(value, int)]
    assert others.count(noise.POSTERIOR) == 1


def test_outside_there_is_nothing(tmp_path):
    split = LatentSplit(shards(tmp_path))
    for index in (-1, N):
        with pytest.raises(IndexError, match=f"of {N}"):
            split.images(np.array([index]))


def test_latents_that_are_not_finite_are_named():
    bad = IMAGES.copy()
    bad[9, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="the latents of image 9 are not finite in float16"):
        encode_shard(ArraySplit(bad, LABELS), np.arange(N), Halves(), batch=4)


def test_what_is_no_whole_shard_is_named(tmp_path):
    paths = shards(tmp_path)
    data = (tmp_path / "000010.safetensors").read_bytes()
    for damage in (b"", data[:5], data[:200], data[:-1], b"\xff" * 400):
        (tmp_path / "000010.safetensors").write_bytes(damage)
        with pytest.raises(ValueError, match=r"000010\.safetensors is not a valid shard of latents"):
            LatentSplit(paths)
    for arrays in (
        {"posterior": np.zeros((2, 2, 2, 4, 4), np.float32), "labels": np.zeros(2, np.int64)},
        {"posterior": np.zeros((2, 2, 2, 2, 4, 4), np.float32), "labels": np.zeros(3, np.int64)},
        {"posterior": np.zeros((2, 2, 2, 2, 4, 4), np.int32), "labels": np.zeros(2, np.int64)},
        {"labels": np.zeros(2, np.int64)},
    ):
        save_file(arrays, paths[1])
        with pytest.raises(ValueError, match="is not a valid shard"):
            LatentSplit(paths)
    with pytest.raises(FileNotFoundError):
        LatentSplit([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="no shards"):
        LatentSplit([])


def test_shards_that_do_not_fit_each_other_are_named(tmp_path):
    paths = shards(tmp_path)
    for other in ((2, 5, 5), (4, 4, 4)):
        save_file({"posterior": np.zeros((2, 2, 2, *other), np.float32), "labels": np.zeros(2, np.int64)}, paths[2])
        with pytest.raises(ValueError, match=r"000020\.safetensors has latents"):
            LatentSplit(paths)
    save_file({"posterior": np.zeros((2, 2, 2, 2, 4, 4), np.float16), "labels": np.zeros(2, np.int64)}, paths[2])
    with pytest.raises(ValueError, match="has latents float16"):
        LatentSplit(paths)
