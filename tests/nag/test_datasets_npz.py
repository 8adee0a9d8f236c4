"""Images and latents in .npz files, as others write them, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from nag.datasets.arrays import array, headers
from nag.datasets.dataset import listing, to_uint8
from nag.datasets.npz import Npz

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (30, 6, 4, 3), dtype=np.uint8)
LATENTS = rng.normal(size=(30, 4, 2, 2)).astype(np.float32)
LABELS = np.arange(30) % 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def everything(split) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(len(split))
    return split.images(indices), split.labels(indices)


def rows(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("images", "labels")])
def test_pixels(tmp_path, save, names):
    path = str(tmp_path / "x.npz")
    save(path, **dict(zip(names, (PIXELS, LABELS), strict=True)))
    data = Npz(path=path)
    assert (data.shape, data.stores, data.num_classes) == ((3, 6, 4), "pixels", 5)
    images, labels = everything(data.open("train"))
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert len(data.open("held_out")) == 0
    both = {image.tobytes(): label for image, label in zip(PIXELS.transpose(0, 3, 1, 2).copy(), LABELS, strict=True)}
    for image, label in zip(to_uint8(images), labels, strict=True):
        assert both.pop(image.tobytes()) == label
    assert not both


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_latents_without_labels(tmp_path, dtype):
    path = str(tmp_path / "x.npz")
    np.savez(path, LATENTS.astype(dtype))
    data = Npz(path=path)
    assert (data.shape, data.stores, data.num_classes) == ((4, 2, 2), "latents", 1)
    images, labels = everything(data.open("train"))
    assert images.dtype == np.float32
    assert rows(images) == rows(LATENTS.astype(dtype).astype(np.float32))
    assert set(labels) == {0}


def test_a_share_is_held_out(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez(path, PIXELS, LABELS)
    data = Npz(path=path, held_out=0.2)
    train, held_out = (everything(data.open(split))[0] for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (24, 6)
    assert rows(np.concatenate([train, held_out])) == rows(everything(Npz(path=path).open("train"))[0])
    with pytest.raises(ValueError, match="unknown split 'val'"):
        data.open("val")


def test_an_uncompressed_array_is_mapped_and_not_read(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez(path, PIXELS, LABELS)
    assert isinstance(array(path, "arr_0"), np.memmap)
    assert (array(path, "arr_0") == PIXELS).all()
    np.savez(path, np.asfortranarray(PIXELS))
    assert (array(path, "arr_0") == PIXELS).all()


def test_a_file_at_a_url(tmp_path):
    np.savez(tmp_path / "x.npz", PIXELS, LABELS)
    fsspec.filesystem("memory").pipe_file("/npz/x.npz", (tmp_path / "x.npz").read_bytes())
    here, there = Npz(path=str(tmp_path / "x.npz")), Npz(path="memory://npz/x.npz")
    assert listing(here.path) == listing(there.path)
    assert (everything(here.open("train"))[0] == everything(there.open("train"))[0]).all()


def test_another_file_under_the_same_name_is_seen(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez(path, PIXELS, LABELS)
    assert Npz(path=path).num_classes == 5
    np.savez(path, PIXELS[:, :4], LABELS + 3)
    assert (Npz(path=path).num_classes, Npz(path=path).shape) == (8, (3, 4, 4))


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_arrays_are_refused_and_never_loaded(tmp_path):
    path, trap = str(tmp_path / "x.npz"), tmp_path / "sprung"
    for arrays in ({"arr_0": np.array([Trap(str(trap))])}, {"arr_0": PIXELS, "arr_1": np.array([Trap(str(trap))])}):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"x\.npz: arr_. holds pickled Python objects, which are never loaded"):
            Npz(path=path).open("train")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": PIXELS.astype(np.int32)}, r"arr_0 is int32 \(30, 6, 4, 3\); it must be uint8"),
        ({"arr_0": PIXELS.astype(np.uint16)}, "arr_0 is uint16"),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2)}, r"arr_0 is uint8 \(30, 3, 6, 4\)"),
        ({"arr_0": PIXELS[..., 0]}, r"arr_0 is uint8 \(30, 6, 4\)"),
        ({"arr_0": LATENTS[0]}, r"arr_0 is float32 \(4, 2, 2\)"),
        ({"arr_0": LATENTS.astype(complex)}, "arr_0 is complex128"),
        ({"pictures": PIXELS}, "has no array arr_0 or images or latents; it has pictures"),
        ({"arr_0": PIXELS, "arr_1": LABELS[:7]}, r"arr_1 is int64 \(7,\); it must be whole numbers \(30,\)"),
        ({"arr_0": PIXELS, "arr_1": LABELS.astype(float)}, "arr_1 is float64"),
        ({"arr_0": PIXELS, "arr_1": np.eye(30, dtype=int)}, r"arr_1 is int64 \(30, 30\)"),
        ({"arr_0": PIXELS[:1]}, "1 images to train on; at least 2"),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, words):
    path = str(tmp_path / "x.npz")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz.*{words}"):
        Npz(path=path).open("train")


def test_negative_classes_and_values_that_are_not_finite_are_named(tmp_path):
    path = str(tmp_path / "x.npz")
    bad = LATENTS.copy()
    bad[17, 2, 1, 1] = np.nan
    np.savez(path, bad, LABELS - 1)
    with pytest.raises(ValueError, match=r"x\.npz: arr_1 goes down to -1"):
        _ = Npz(path=path).num_classes
    with pytest.raises(ValueError, match=r"x\.npz: row 17 has values that are not finite"):
        everything(Npz(path=path).open("train"))


@pytest.mark.parametrize("keep", [0, 10, 1000, -30])
def test_a_file_that_is_cut_is_named(tmp_path, keep):
    path = tmp_path / "x.npz"
    np.savez(path, PIXELS, LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"x\.npz is not a valid \.npz file"):
        Npz(path=str(path)).open("train")


def test_damage_inside_a_compressed_array_is_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, PIXELS)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz.*arr_0"):
        Npz(path=str(path)).open("train")


def test_what_is_not_there_and_what_is_no_array(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _ = Npz(path=str(tmp_path / "nowhere.npz")).shape
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"no array")
    with pytest.raises(ValueError, match="is not a valid"):
        headers(str(tmp_path / "x.npz"))


def _header(text: bytes) -> bytes:
    """The start of an .npy file with this header."""
    padded = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def _hostile(path: Path, kind: str) -> None:
    literal = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s}"
    headers = {
        "no literal": b"{'descr': '|u1', 'shape': (1,",
        "no tokens": b"{'descr': '''|u1",
        "a call": b"{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (2,)}",
        "deep": b"(" * 400 + b")" * 400,
        "no mapping": b"[1, 2]",
        "odd dtype": b"{'descr': [('a',)], 'fortran_order': False, 'shape': (2,)}",
        "too large": literal % b"(1000000000000, 4, 4, 3)",
        "negative": literal % b"(-5, 4, 4, 3)",
        "overflows": literal % b"(4611686018427387904, 4, 4, 3)",
        "no numbers": literal % b"('a', 4, 4, 3)",
        "booleans": literal % b"(True, True, True, 3)",
    }
    compression = {"lzma": zipfile.ZIP_LZMA, "bz2": zipfile.ZIP_BZIP2}.get(kind, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr_0.npy", _header(headers.get(kind, literal % b"(2, 4, 4, 3)")) + bytes(range(96)))
    data = bytearray(path.read_bytes())
    match kind:
        case "encrypted":
            data[6] |= 1
            data[data.rfind(b"PK\x01\x02") + 8] |= 1
        case "lzma" | "bz2":
            data[45:75] = b"\xff" * 30
        case "method":
            data[8] = data[data.rfind(b"PK\x01\x02") + 10] = 99
        case "cut":
            del data[60:100]
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind",
    [
        *("encrypted", "lzma", "bz2", "method", "cut", "no literal", "no tokens", "a call", "deep", "no mapping"),
        *("odd dtype", "too large", "negative", "overflows", "no numbers"),
    ],
)
def test_a_file_that_lies_or_is_damaged_is_one_error(tmp_path: Path, kind: str) -> None:
    """What zipfile, its decoders and numpy raise for these: RuntimeError, LZMAError, TokenError, SyntaxError, ..."""
    _hostile(tmp_path / "x.npz", kind)
    for read in (
        lambda: headers(str(tmp_path / "x.npz")),
        lambda: array(str(tmp_path / "x.npz"), "arr_0"),
        lambda: Npz(path=str(tmp_path / "x.npz")).shape,
        lambda: Npz(path=str(tmp_path / "x.npz")).open("train"),
    ):
        with pytest.raises(ValueError, match=r"x\.npz(: arr_0)? (is not a valid \.npz file|cannot be read) \(.+\)"):
            read()


def test_an_array_larger_than_the_memory_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((50, 16, 16, 3), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", arr_0=images)
    assert array(str(tmp_path / "x.npz"), "arr_0").shape == images.shape
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(ValueError, match=r"x\.npz: arr_0 cannot be read .*GB of memory; store it uncompressed"):
        array(str(tmp_path / "x.npz"), "arr_0")


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match=r"x\.npz is a pointer of Git LFS; its content was not fetched: run 'git lfs"):
        Npz(path=str(tmp_path / "x.npz")).open("train")
