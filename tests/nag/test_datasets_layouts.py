"""Folders of images as people have them: which split and class each image has, and what is left out and said."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from nag.datasets.dataset import listing
from nag.datasets.folder_layout import layout_of
from nag.datasets.image_folder import ImageFolder
from nag.datasets.images import BadImage
from nag.datasets.listing import read_listing
from nag.datasets.named import ArtBench10
from tests.nag.image_files import fill, noise_image, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder(path: Path) -> ImageFolder:
    return ImageFolder(path=str(path), resolution=8)


def jpeg(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_image(seed).save(path, "jpeg")


def labels(data: ImageFolder, split: str = "train") -> dict[str, int]:
    """The label of each image of a split, by name."""
    opened = data.open(split)
    return dict(zip((name for name, _ in opened.files), opened.labels(np.arange(len(opened))).tolist(), strict=True))


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test", "held_out", "Valid", "TEST"])
def test_splits_in_any_spelling(tmp_path: Path, train: str, held_out: str) -> None:
    data = folder(fill(tmp_path / "data", {f"{train}/ant": 3, f"{train}/bee": 2, f"{held_out}/bee": 2}))
    assert (data.num_classes, data.class_names, data.notes()) == (2, ("ant", "bee"), [])
    assert sorted(labels(data).values()) == [0, 0, 0, 1, 1]
    assert set(labels(data, "held_out").values()) == {1}


@pytest.mark.parametrize("train", ["training", "Train"])
def test_a_class_may_be_called_as_a_split(tmp_path: Path, train: str) -> None:
    data = folder(fill(tmp_path / "data", {"running": 3, train: 2, f"{train}/hard": 1}))
    assert data.num_classes == 2
    assert len(data.open("train")) == 6


def test_one_split_in_two_spellings_is_named(tmp_path: Path) -> None:
    data = folder(fill(tmp_path / "data", {"Training/a": 2, "TRAIN/a": 2, "test/a": 1}))
    with pytest.raises(ValueError, match="the folders TRAIN/ and Training/ are one split; keep one of them"):
        _ = data.num_classes
    (problem,) = data.inspect()
    assert "are one split" in problem
    assert layout_of(("Train", "bus", "training")) == ("", None, ("Train", "bus", "training"))


JUNK = ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", "a/@eaDir", "a/.ipynb_checkpoints", "a/deep/__MACOSX")


@pytest.mark.parametrize("junk", JUNK)
def test_folders_that_systems_put_there_are_no_classes_and_their_images_do_not_count(tmp_path: Path, junk: str) -> None:
    root = fill(tmp_path / "data", {"a": 3, "a/deep": 1, "b": 2})
    expected = labels(folder(root))
    save(noise_image(9), root / junk / "thumbnail.png")
    data = folder(root)
    assert data.class_names == ("a", "b")
    assert labels(data) == expected
    (note,) = data.notes()
    name = junk.rpartition("/")[2]
    assert note == f"1 of 7 files are left out: 1 {f'{name}/' if name.startswith('.') else f'in {junk}/'}"


@pytest.mark.parametrize("junk", [".DS_Store", "a/.DS_Store", "a/._000.png", "a/Thumbs.db", "desktop.ini"])
def test_files_that_systems_put_there_are_left_out_and_named(tmp_path: Path, junk: str) -> None:
    root = fill(tmp_path / "data", {"a": 3, "b": 2})
    before, expected = listing(str(root)), labels(folder(root))
    (root / junk).write_bytes(b"x")
    data = folder(root)
    assert labels(data) == expected
    name = "._*" if "._" in junk else junk.rpartition("/")[2]
    assert data.notes() == [f"1 of 6 files are left out: 1 {name}"]
    assert (read_listing(str(root), fresh=True).checksum == before) is name.startswith(".")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jfi", ".jif", ".pjpeg", ".JFIF"])
def test_other_names_of_jpeg(tmp_path: Path, suffix: str) -> None:
    root = fill(tmp_path / "data", {"a": 2, "b": 2})
    jpeg(root / f"a/new{suffix}")
    data = folder(root)
    assert data.notes() == []
    assert labels(data)[f"a/new{suffix}"] == 0
    assert data.open("train").images(np.arange(5)).shape == (5, 3, 8, 8)


def test_every_file_that_is_passed_over_is_counted_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"train/a": 4, "val/a": 2, "test/a": 1, "train/a/@eaDir": 2})
    for name in ("train/a/x.heic", "train/a/y.HEIC", "val/a/notes.txt", "licence", "train/.DS_Store", "meta/a/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    words = "2 .heic, 2 in train/a/@eaDir/, 1 .DS_Store, 1 .txt, 1 in meta/, 1 in test/, 1 without a suffix"
    assert folder(root).notes() == [f"9 of 15 files are left out: {words}"]
    used = sum(len(folder(root).open(split)) for split in ("train", "held_out"))
    assert used + 9 == sum(1 for path in root.rglob("*") if path.is_file())


def test_many_kinds_are_one_line(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"a": 2})
    for number in range(40):
        (root / f"a/x.k{number:02d}").write_bytes(b"")
        (root / f"a/.h{number:02d}").write_bytes(b"")
    (note,) = folder(root).notes()
    assert note.startswith("80 of 82 files are left out: 20 hidden, 1 ")
    assert note.endswith("of other kinds")


def test_at_a_url_the_same_is_left_out(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"Train/a": 3, "valid/a": 1, "Train/a/@eaDir": 1})
    (root / "Train/.DS_Store").write_bytes(b"x")
    system = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/layouts/{path.relative_to(root)}", path.read_bytes())
    here, there = folder(root), folder(Path("memory://layouts"))
    there = ImageFolder(path="memory://layouts", resolution=8)
    assert here.notes() == there.notes() == ["2 of 6 files are left out: 1 .DS_Store, 1 in Train/a/@eaDir/"]
    assert labels(here) == labels(there)
    assert listing(str(root)) == listing("memory://layouts")


# Labels of EDM and StyleGAN


def edm(root: Path, given: object, count: int = 5) -> Path:
    """A folder as EDM's dataset_tool.py writes it: 00000/img00000000.png and dataset.json."""
    for i in range(count):
        save(noise_image(i), root / f"{i // 3:05d}/img{i:08d}.png")
    (root / "dataset.json").write_text(json.dumps(given))
    return root


EDM = [[f"{i // 3:05d}/img{i:08d}.png", label] for i, label in enumerate([2, 0, 6, 0, 2])]


def test_a_dataset_json_gives_the_labels(tmp_path: Path) -> None:
    data = folder(edm(tmp_path / "data", {"labels": EDM}))
    assert (data.num_classes, data.class_names) == (7, ())
    assert labels(data) == dict(EDM)
    assert data.notes() == ["dataset.json gives the labels"]
    assert data.inspect() == []


def test_null_labels_are_one_class(tmp_path: Path) -> None:
    data = folder(edm(tmp_path / "data", {"labels": None}))
    assert data.num_classes == 1
    assert set(labels(data).values()) == {0}


def test_each_split_may_have_its_labels(tmp_path: Path) -> None:
    edm(tmp_path / "data/Train", {"labels": EDM})
    edm(tmp_path / "data/val", {"labels": EDM[:2]}, 2)
    data = folder(tmp_path / "data")
    assert data.num_classes == 7
    assert labels(data) == {f"Train/{name}": label for name, label in EDM}
    assert labels(data, "held_out") == {f"val/{name}": label for name, label in EDM[:2]}
    (tmp_path / "data/val/dataset.json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*/data/val/dataset\.json, but the training images have theirs"):
        data.open("held_out")


def test_another_dataset_json_is_a_file_like_others(tmp_path: Path) -> None:
    for held in ({"name": "x"}, [1], {"labels": {"cat": 0}}, {"labels": [[1, 2]]}):
        data = folder(edm(tmp_path / "data", held))
        assert data.class_names == ("00000", "00001")
        assert data.notes() == ["1 of 6 files are left out: 1 .json"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (EDM[:4], r"dataset\.json has no label for 00001/img00000004\.png \(1 of 5 images have none\)"),
        ([["00000/img00000000.png", [0.0, 1.0]]], r"dataset\.json: the label of .* is \[0\.0, 1\.0\]; labels must be"),
        ([["00000/img00000000.png", -1]], r"dataset\.json: the label of .* is -1; labels must be numbers of classes"),
        ([["00000/img00000000.png", True]], "is true; labels must be"),
    ],
)
def test_labels_that_are_no_classes_are_named(tmp_path: Path, given: list, words: str) -> None:
    data = folder(edm(tmp_path / "data", {"labels": given}))
    with pytest.raises(ValueError, match=words):
        data.open("train")


def test_every_byte_of_the_labels_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is so large that only pieces of it are read, or not among the files that are read."""
    many = EDM + [[f"none/{i:08d}.png", 1] for i in range(40_000)]
    root = edm(tmp_path / "data", {"labels": many})
    before = listing(str(root))
    monkeypatch.setattr("nag.datasets.listing.EVERY", 1)
    monkeypatch.setattr("nag.datasets.listing.SAMPLE", 1)
    sampled = read_listing(str(root), fresh=True).checksum
    text = (root / "dataset.json").read_text()
    place = text.index('"none/00017000.png", 1') + len('"none/00017000.png", ')
    (root / "dataset.json").write_text(f"{text[:place]}2{text[place + 1 :]}")
    assert read_listing(str(root), fresh=True).checksum != sampled
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert listing(str(root)) != before


def test_a_known_data_set_may_have_labels_in_a_file(tmp_path: Path) -> None:
    root = edm(tmp_path / "data", {"labels": [[name, 2 * i + 1] for i, (name, _) in enumerate(EDM)]})
    assert ArtBench10(path=str(root), resolution=8).num_classes == 10


# What is no image


def test_pointers_and_empty_files_are_found_among_all_names(tmp_path: Path) -> None:
    """Not in the first image of a class alone, which is all that is decoded."""
    root = fill(tmp_path / "data", {"a": 12, "b": 12})
    first = {name for name, _ in folder(root).open("train").files[:6]}
    late = sorted({f"a/{i:03d}.png" for i in range(12)} - first)[:2]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    for name in late:
        (root / name).write_text(pointer)
    (problem,) = folder(root).inspect()
    assert f"2 of 24 files are pointers of Git LFS, such as {late[0]}" in problem or late[1] in problem
    assert "run 'git lfs pull'" in problem
    (skipping,) = ImageFolder(path=str(root), resolution=8, on_error="skip").inspect()
    assert skipping == problem
    for name in late:
        (root / name).write_bytes(b"")
    (problem,) = folder(root).inspect()
    assert "2 image files are empty, such as a/0" in problem


def test_a_file_of_another_format_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads EPS by starting Ghostscript, whatever the suffix says."""
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it once
    root = fill(tmp_path / "data", {"a": 3})
    noise_image(1).save(root / "a/eps.png", "eps")
    with pytest.raises(BadImage, match=r"a/eps\.png: it cannot be read as an image; its content is not one of"):
        folder(root).open("train").images(np.arange(4))
    assert not (tmp_path / "started").exists()
    with Image.open(root / "a/eps.png") as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert (tmp_path / "started").exists(), "the program would have been found"


# Names


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"plain": 2})
    odd = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(odd)
    for i in range(2):
        with open(odd + b"/%d.png" % i, "wb") as file:
            noise_image(i).save(file, "png")
    data = folder(root)
    assert tuple(map(os.fsencode, data.class_names)) == (b"caf\xe9", b"plain")
    assert sorted(labels(data).values()) == [0, 0, 1, 1]
    assert data.inspect() == []


def test_two_spellings_of_one_name_are_a_warning(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    data = folder(fill(tmp_path / "data", {names[0]: 2, names[1]: 2, "tea": 1}))
    assert data.num_classes == 3
    (note,) = data.notes()
    assert "'cafe\\u0301' and 'caf\\xe9' are one name in two Unicode spellings (NFC and NFD)" in note


# Identities

BEFORE = {  # checksums by the first release, which read these folders in the same way
    "class folders": ("a1cb8992f4aea5fef804bc760ffdd613", ["ant/0.png", "bee/1.JPG", "bee/deeper/2.webp"]),
    "train, val and test": (
        "24016f3db787065e960902cdae8c5229",
        ["train/a/0.png", "val/a/1.png", "test/a/2.png", "meta/overview.png"],
    ),
    "a flat folder": ("36d9b0136fcf307862778ad8430ed3e8", ["0.png", "1.png", "readme.txt"]),
    "other files beside images": (
        "1e2a4d5d399f637991eb0f3bbafdecc8",
        ["a/0.png", "a/Thumbs.db", "b/1.png", "notes.txt", "data.csv"],
    ),
    "a class called train": ("45f3124b7eb2a02639969eebc5549abe", ["bus/0.png", "train/1.png"]),
    "junk beside train": (
        "10d2bfc3a2a4596553d5d9fe7072e68f",
        ["train/a/0.png", "test/a/1.png", "lost+found/x.txt"],
    ),
    "another dataset.json": (
        "e6b288753d1b24102d24c8d6595148aa",
        ["00000/img0.png", "00001/img1.png", "dataset.json"],
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_folder_that_was_read_right_has_the_checksum_that_it_had(tmp_path: Path, name: str) -> None:
    checksum, files = BEFORE[name]
    assert listing(str(written(tmp_path / "data", files))) == checksum


def written(root: Path, files: list[str]) -> Path:
    for each in files:
        (root / each).parent.mkdir(parents=True, exist_ok=True)
        (root / each).write_bytes(each.encode())
    return root


@pytest.mark.parametrize(
    ("files", "checksum"),
    [
        (["Train/a/0.png", "Test/a/1.png"], "17188cf13fe16e4c99f450f8311d8c57"),
        (["train/a/0.png", "valid/a/1.png"], "9ee0dfbc0d48b2e43a8d2ad55864147d"),
        (["train/a/0.png", "valid/a/1.png", "test/a/2.png"], "01b4068f6849b3aaa7ec262aef7518f9"),
        (["a/0.png", "__MACOSX/a/0.png"], "1176b86dccb60d78c935d4439582947a"),
        (["a/0.png", "a/@eaDir/0.png"], "b090c1c5fdc9d1e925324b5d932cb814"),
        (["a/0.png", "a/1.jfif"], "87794fad23f37494966ea4b6bae7fbf8"),
    ],
)
def test_a_folder_that_is_read_otherwise_has_another(tmp_path: Path, files: list[str], checksum: str) -> None:
    """Another one than the first release gave it, so nothing that was trained on the former reading is taken for it."""
    assert listing(str(written(tmp_path / "data", files))) != checksum


def test_layouts_of_names_alone() -> None:
    assert layout_of(()) == ("", None, ())
    assert layout_of(("Test", "Test/a", "Train", "Train/a")) == ("Train", "Test", ("a",))
    assert layout_of(("test", "train", "train/a", "valid")) == ("train", "valid", ("a",))
    assert layout_of(("a", "lost+found", "test", "train", "train/a")) == ("train", "test", ("a",))
    assert layout_of(("Test", "Train", "lost+found")) == ("Train", "Test", ())
