"""Images in folders: the crop, the splits, flips, and every kind of file that a folder may hold."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from nag.datasets import listing as files
from nag.datasets.dataset import listing, to_uint8
from nag.datasets.image_folder import ImageFolder
from nag.datasets.images import BadImage, as_rgb, centre_crop
from nag.datasets.prefetch import prefetch
from tests.nag.image_files import fill, noise_image, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "data", {"cat": 6, "ant": 5, "bee": 7})


def everything(split) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(len(split))
    return split.images(indices), split.labels(indices)


def keys(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


# The crop


def test_an_image_of_the_right_size_is_left_alone():
    image = noise_image(1, 16, 16)
    assert (np.asarray(centre_crop(image, 16)) == np.asarray(image)).all()


@pytest.mark.parametrize("times", [2, 4, 8])
def test_powers_of_two_are_box_means(times):
    image = noise_image(2, 8 * times, 8 * times)
    means = np.asarray(image).reshape(8, times, 8, times, 3).mean(axis=(1, 3))
    found = np.asarray(centre_crop(image, 8)).astype(float)
    assert np.abs(found - means).max() <= np.log2(times)  # Pillow rounds twice a halving


def test_below_twice_the_size_it_is_bicubic_alone():
    image = noise_image(3, 31, 31)
    assert (np.asarray(centre_crop(image, 16)) == np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))).all()
    halved = noise_image(3, 48, 48).resize((24, 24), Image.Resampling.BOX).resize((16, 16), Image.Resampling.BICUBIC)
    assert (np.asarray(centre_crop(noise_image(3, 48, 48), 16)) == np.asarray(halved)).all()


def test_the_middle_is_kept():
    wide = noise_image(4, 20, 8)
    assert (np.asarray(centre_crop(wide, 8)) == np.asarray(wide)[:, 6:14]).all()
    tall = Image.fromarray(np.asarray(wide).swapaxes(0, 1).copy())
    assert (np.asarray(centre_crop(tall, 8)) == np.asarray(wide)[:, 6:14].swapaxes(0, 1)).all()


@pytest.mark.parametrize("size", [(5, 5), (9, 40), (301, 200), (17, 16), (64, 33), (1, 1)])
def test_any_size_gives_the_resolution_and_keeps_a_plain_colour(size):
    found = np.asarray(centre_crop(Image.new("RGB", size, (200, 100, 7)), 16))
    assert found.shape == (16, 16, 3)
    assert (found == (200, 100, 7)).all()


# Splits


def test_classes_are_folders_by_name(root):
    data = ImageFolder(path=str(root), resolution=8)
    assert (data.shape, data.num_classes, data.stores) == ((3, 8, 8), 3, "pixels")
    images, labels = everything(data.open("train"))
    assert images.dtype == np.float32
    assert images.shape == (18, 3, 8, 8)
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [5, 7, 6]  # ant, bee, cat
    for label, name in enumerate(("ant", "bee", "cat")):
        stored = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in (root / name).iterdir()]
        assert sorted(keys(to_uint8(images[labels == label]))) == sorted(keys(np.stack(stored)))
    assert len(data.open("held_out")) == 0


def test_a_share_is_held_out_once_and_for_all(root):
    train, held_out = (everything(ImageFolder(path=str(root), resolution=8, held_out=0.3).open(s))[0] for s in SPLITS)
    assert (len(train), len(held_out)) == (13, 5)
    whole = everything(ImageFolder(path=str(root), resolution=8).open("train"))[0]
    assert sorted(keys(train) + keys(held_out)) == sorted(keys(whole))
    again = ImageFolder(path=str(root), resolution=4, held_out=0.3, flip=True, on_error="skip").open("held_out")
    assert [name for name, _ in again.files] == [
        n for n, _ in ImageFolder(path=str(root), held_out=0.3).open("held_out").files
    ]


SPLITS = ("train", "held_out")


def test_any_run_of_indices_is_a_fair_draw(tmp_path):
    data = ImageFolder(path=str(fill(tmp_path / "data", {"a": 60, "b": 60})), resolution=8)
    labels = data.open("train").labels(np.arange(60))
    assert 20 < labels.sum() < 40  # in the order of names it would be 0


@pytest.mark.parametrize(
    ("beside", "held_out"), [(("val", "test"), "val"), (("test",), "test"), (("val", "held_out"), "held_out")]
)
def test_an_explicit_split(tmp_path, beside, held_out):
    root = fill(tmp_path / "data", {"train/x": 4, "train/y": 3})
    for number, name in enumerate(beside):
        fill(root, {f"{name}/y": 2 + number}, seed=7000 + 10 * number)
    save(noise_image(1), root / "meta/overview.png")
    data = ImageFolder(path=str(root), resolution=8)
    assert data.num_classes == 2
    assert len(data.open("train")) == 7
    found = data.open("held_out")
    assert len(found) == 2 + beside.index(held_out)
    assert {name.split("/")[0] for name, _ in found.files} == {held_out}
    assert set(found.labels(np.arange(len(found)))) == {1}
    with pytest.raises(ValueError, match=f"has a folder {held_out}/, so held_out: 0.2 must go"):
        ImageFolder(path=str(root), held_out=0.2).open("train")


def test_a_class_may_be_called_train(tmp_path):
    root = fill(tmp_path / "data", {"bus": 3, "train": 4})
    assert ImageFolder(path=str(root), resolution=8).num_classes == 2
    assert len(ImageFolder(path=str(root), resolution=8).open("train")) == 7


def test_images_without_folders_are_one_class(tmp_path):
    root = fill(tmp_path / "flat", {".": 5})
    data = ImageFolder(path=str(root), resolution=8)
    assert data.num_classes == 1
    assert everything(data.open("train"))[1].tolist() == [0] * 5


def test_images_may_lie_deeper_and_other_files_are_passed_over(tmp_path):
    root = fill(tmp_path / "data", {"a/north": 2, "a/south/far": 2, "b": 3})
    (root / "b/readme.txt").write_text("x")
    (root / "licence.pdf").write_text("x")
    data = ImageFolder(path=str(root), resolution=8)
    assert data.num_classes == 2
    assert np.bincount(everything(data.open("train"))[1]).tolist() == [4, 3]


def test_flips_come_after_the_originals_in_training_alone(root):
    plain = ImageFolder(path=str(root), resolution=8, held_out=0.3)
    data = ImageFolder(path=str(root), resolution=8, held_out=0.3, flip=True)
    train, n = data.open("train"), len(plain.open("train"))
    assert (len(train), train.originals, len(data.open("held_out"))) == (2 * n, n, len(plain.open("held_out")))
    images, labels = everything(train)
    assert (images[:n] == everything(plain.open("train"))[0]).all()
    assert (images[n:] == images[:n, :, :, ::-1]).all()
    assert (labels[n:] == labels[:n]).all()


def test_reading_by_index_does_not_depend_on_the_batch(root):
    split = ImageFolder(path=str(root), resolution=5, flip=True).open("train")
    indices = np.array([30, 2, 2, 17, 35])
    batch = split.images(indices)
    for row, index in enumerate(indices):
        assert (split.images(np.array([index]))[0] == batch[row]).all()
    for outside in (-1, 36):
        with pytest.raises(IndexError):
            split.images(np.array([outside]))


def test_reading_ahead_changes_nothing_and_is_bounded(root):
    split = ImageFolder(path=str(root), resolution=8).open("train")
    images, labels = everything(split)
    taken: list[int] = []

    def parts():
        for first in range(0, 18, 3):
            taken.append(first)
            yield np.arange(first, first + 3)

    for number, (x, y) in enumerate(prefetch(split, parts(), depth=2)):
        assert (x == images[3 * number : 3 * number + 3]).all()
        assert (y == labels[3 * number : 3 * number + 3]).all()
        assert len(taken) <= number + 3


def test_a_url_gives_the_same_images_as_the_folder(root):
    system = fsspec.filesystem("memory")
    for path in root.rglob("*.png"):
        system.pipe_file(f"/folder/{path.relative_to(root)}", path.read_bytes())
    here, there = (ImageFolder(path=path, resolution=8, held_out=0.2) for path in (str(root), "memory://folder"))
    assert listing(str(root)) == listing("memory://folder")
    for split in SPLITS:
        for a, b in zip(everything(here.open(split)), everything(there.open(split)), strict=True):
            assert (a == b).all()


def test_asking_for_classes_reads_no_file(root, monkeypatch):
    before = time.time() - 60
    for folder, _, _ in os.walk(root):
        os.utime(folder, (before, before))
    data = ImageFolder(path=str(root))
    data.open("train")
    monkeypatch.setattr(files, "_scan", None)
    assert data.num_classes == 3


# Every kind of file


def test_mixed_sizes_and_formats(tmp_path):
    root = tmp_path / "mixed"
    for name, size in {"a.jpg": (50, 20), "b.webp": (9, 30), "c.BMP": (8, 8), "d.gif": (100, 100)}.items():
        save(noise_image(1, *size), root / "x" / name)
    assert ImageFolder(path=str(root), resolution=8).open("train").images(np.arange(4)).shape == (4, 3, 8, 8)


def damaged() -> dict[str, bytes]:
    buffer = io.BytesIO()
    noise_image(1, 64, 64).save(buffer, "png")
    png = buffer.getvalue()
    buffer = io.BytesIO()
    noise_image(1, 64, 64).save(buffer, "jpeg")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"<html>404</html>",
        "cut.png": png[: len(png) // 2],
        "cut.jpg": buffer.getvalue()[:-200],
        "flipped bit": bytes(flipped),
    }


@pytest.mark.parametrize("kind", list(damaged()))
def test_an_unreadable_image_is_named(root, kind):
    (root / "bee/003.png").write_bytes(damaged()[kind])
    split = ImageFolder(path=str(root), resolution=8).open("train")
    with pytest.raises(BadImage, match=r"data/bee/003\.png: it cannot be read as an image"):
        split.images(np.arange(len(split)))


def test_pixels_without_a_known_range_are_named(root):
    save(Image.fromarray(np.ones((8, 8), np.float32)), root / "bee/f.tif")
    split = ImageFolder(path=str(root), resolution=8).open("train")
    with pytest.raises(ValueError, match=r"bee/f\.tif: its pixels are floating-point"):
        split.images(np.arange(len(split)))
    with pytest.raises(ValueError, match="16 bits cannot hold"):
        as_rgb(Image.fromarray(np.full((8, 8), 70_000, np.int32)))


def test_skip_puts_the_next_of_the_class_in_its_place_and_counts(root):
    whole = ImageFolder(path=str(root), resolution=8, flip=True).open("train")
    good, labels = everything(whole)
    bees = np.flatnonzero(labels[: whole.originals] == 1)
    bad = bees[[2, 3, len(bees) - 1]]  # two in a row, and the last, whose next is the first
    for i in bad:
        (root / whole.files[i][0]).write_bytes(b"no image")
    split = ImageFolder(path=str(root), resolution=8, flip=True, on_error="skip").open("train")
    assert [name for name, _ in split.files] == [name for name, _ in whole.files]
    found, again = everything(split)
    expected = good.copy()
    for i, other in zip(bad, bees[[4, 4, 0]], strict=True):
        expected[i], expected[i + whole.originals] = good[other], good[other + whole.originals]
    assert (found == expected).all()
    assert (again == labels).all()
    assert set(split.skipped) == {whole.files[i][0] for i in bad}
    one_by_one = ImageFolder(path=str(root), resolution=8, flip=True, on_error="skip").open("train")
    assert (one_by_one.images(bad[1:2]) == expected[bad[1:2]]).all()


def test_a_class_without_a_readable_image_stops_even_skip(root):
    for path in (root / "bee").iterdir():
        path.write_bytes(b"no image")
    split = ImageFolder(path=str(root), resolution=8, on_error="skip").open("train")
    with pytest.raises(ValueError, match=r"no image of the class of .*data/bee/00.* can be read"):
        split.images(np.arange(len(split)))


def test_a_file_that_is_gone_is_never_skipped(root):
    split = ImageFolder(path=str(root), resolution=8, on_error="skip").open("train")
    (root / split.files[0][0]).unlink()
    with pytest.raises(FileNotFoundError):
        split.images(np.array([0]))


# What is no data set


def test_what_is_no_data_set_is_named(tmp_path):
    def fails(root: Path, words: str, split: str = "train", **fields) -> None:
        with pytest.raises((ValueError, OSError), match=words):
            ImageFolder(path=str(root), **fields).open(split)
        assert any(re.search(words, problem) for problem in ImageFolder(path=str(root)).inspect())

    fails(tmp_path / "none", "no file or folder '.*none'")
    (tmp_path / "bare").mkdir()
    fails(tmp_path / "bare", "there are no images below .*bare")
    empty = fill(tmp_path / "empty", {"a": 2, "b": 2})
    (empty / "c").mkdir()
    fails(empty, r"empty/c has no images \(1 of 3 class folders have none\)")
    fails(fill(tmp_path / "single", {"a": 1}), "single: 1 images to train on; at least 2 are needed")
    beside = fill(tmp_path / "beside", {"a": 2})
    save(noise_image(0), beside / "x.png")
    fails(beside, r"beside/x\.png is next to the class folders")
    strange = fill(tmp_path / "strange", {"train/a": 2, "test/b": 2})
    fails(strange, "strange/test/b is not a class of the training images", "held_out")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held_out"):
        ImageFolder(path=str(strange)).open("test")


def test_inspect_sees_empty_files_and_broken_classes(root):
    assert ImageFolder(path=str(root), resolution=8).inspect() == []
    split = ImageFolder(path=str(root), resolution=8).open("train")
    labels = split.labels(np.arange(len(split)))
    first, second = (split.files[i][0] for i in np.flatnonzero(labels == 2)[:2])
    (root / first).write_bytes(b"no image")
    (root / second).write_bytes(b"")  # in place: the folder's time does not tell
    problems = ImageFolder(path=str(root), resolution=8).inspect()
    assert len(problems) == 2
    assert f"1 image files are empty, such as {second}" in problems[0]
    assert first in problems[1]
    assert ImageFolder(path=str(root), resolution=8, on_error="skip").inspect() == []
    for i in np.flatnonzero(labels == 2):
        (root / split.files[i][0]).write_bytes(b"no image")
    (problem,) = ImageFolder(path=str(root), resolution=8, on_error="skip").inspect()
    assert re.match(r"no image of the class of .* can be read", problem)
