"""Latents as people save them: every layout gives the same states, and what cannot be told is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nag import noise
from nag.datasets.dataset import drawn, listing
from nag.datasets.latent_files import LatentFiles

N, C, SIDE, CLASSES = 11, 4, 6, 5
rng = np.random.default_rng(0)
MEAN = rng.normal(size=(N, C, SIDE, SIDE)).astype(np.float32) * 5
STD = rng.uniform(0.01, 0.5, MEAN.shape).astype(np.float32)
MOMENTS = np.concatenate([MEAN, STD], 1)
FLIPPED = MEAN[..., ::-1].copy() + 1
LABELS = np.array([4, 0, 1, 1, 3, 0, 2, 4, 0, 3, 1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def repa(root: Path, rows: np.ndarray = MOMENTS, name: str = "img-mean-std-") -> Path:
    """As REPA's dataset_tools.py encode: 00000/img-mean-std-00000000.npy and dataset.json."""
    names = [f"{i // 4:05d}/{name}{i:08d}.npy" for i in range(len(rows))]
    for each, row in zip(names, rows, strict=True):
        put(root / each, row)
    labels = [[each, int(label)] for each, label in zip(names, LABELS, strict=False)]
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def class_folders(root: Path, rows: np.ndarray = MEAN) -> Path:
    for i, (row, label) in enumerate(zip(rows, LABELS, strict=True)):
        put(root / f"class{label}" / f"{i:03d}.npy", row)
    return root


def fast_dit(root: Path) -> Path:
    """As fast-DiT's extract_features.py: (1, C, H, W) and (1,)."""
    for i in range(N):
        put(root / f"imagenet256_features/{i}.npy", MEAN[i : i + 1])
        put(root / f"imagenet256_labels/{i}.npy", LABELS[i : i + 1])
    return root


def lightning_dit(root: Path, dtype: torch.dtype = torch.float32, statistics: bool = False) -> Path:
    """As LightningDiT's extract_features.py: shards of any length, here of two processes."""
    root.mkdir(parents=True)
    for number, (first, end) in enumerate(((0, 4), (4, 8), (8, N))):
        tensors = {
            "latents": torch.from_numpy(MEAN[first:end]).to(dtype),
            "latents_flip": torch.from_numpy(FLIPPED[first:end]).to(dtype),
            "labels": torch.from_numpy(LABELS[first:end]),
        }
        save_file(tensors, root / f"latents_rank{number // 2:02d}_shard{number % 2:03d}.safetensors")
    if statistics:
        mean, std = (torch.arange(1, C + 1.0).reshape(1, C, 1, 1) * each for each in (1.0, 0.5))
        torch.save({"mean": mean, "std": std}, root / "latents_stats.pt")
    return root


def npz(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays or {"latents": MEAN, "labels": LABELS}))
    return path


def everything(data: LatentFiles, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    opened = data.open(split)
    indices = np.arange(len(opened))
    return opened.images(indices), opened.labels(indices)


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted(zip((np.ascontiguousarray(image).tobytes() for image in images), labels.tolist(), strict=True))


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "REPA": (repa, "REPA's .npy files with a dataset.json: 11 latents [8, 6, 6], mean and standard deviation"),
    "REPA, samples": (
        lambda root: repa(root, MEAN, "img"),
        ".npy files with a dataset.json: 11 latents [4, 6, 6], samples",
    ),
    "class folders": (class_folders, ".npy files in class folders: 11 latents [4, 6, 6], samples"),
    "fast-DiT": (
        fast_dit,
        "fast-DiT's imagenet256_features and imagenet256_labels: 11 latents [4, 6, 6], samples",
    ),
    "LightningDiT": (
        lightning_dit,
        "LightningDiT's shards (3 of .safetensors, with mirrored latents): 11 latents [4, 6, 6], samples",
    ),
    "npz": (lambda root: npz(root / "x.npz"), "one .npz of latents: 11 latents [4, 6, 6], samples"),
    "npz of moments": (
        lambda root: npz(root / "x.npz", moments=MOMENTS, labels=LABELS),
        "one .npz of moments: 11 latents [8, 6, 6], mean and standard deviation",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_states(tmp_path: Path, name: str) -> None:
    make, words = LAYOUTS[name]
    holds = "mean_std" if "moments" in name else None
    data = LatentFiles(path=str(make(tmp_path / "data")), scale=0.18215, shift=0.5, holds=holds)
    assert (data.shape, data.num_classes, data.stores) == ((C, SIDE, SIDE), CLASSES, "latents")
    assert data.notes()[0] == words
    images, labels = everything(data)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert pairs(images, labels) == pairs((MEAN - np.float32(0.5)) * np.float32(0.18215), LABELS)
    assert len(data.open("held_out")) == 0
    assert data.inspect() == []


@pytest.mark.parametrize("holds", ["mean_std", "mean_logvar"])
def test_moments_are_drawn_by_the_keyed_noise(tmp_path: Path, holds: str) -> None:
    rows = MOMENTS if holds == "mean_std" else np.concatenate([MEAN, 2 * np.log(STD)], 1)
    data = LatentFiles(path=str(repa(tmp_path / "data", rows)), scale=2.0, shift=1.0, holds=holds)
    split, place = data.open("train"), np.arange(N)
    order = noise.permutation(0, 0, N)
    eps = noise.normal(7, place, 3, MEAN.shape[1:], purpose=noise.POSTERIOR)
    drawn_states = drawn(split, place, 7, 3, place)
    np.testing.assert_allclose(drawn_states, (MEAN[order] + STD[order] * eps - 1) * 2, rtol=1e-4, atol=1e-4)
    parts = [split.draw(place[i : i + 4], 7, 3, place[i : i + 4]) for i in range(0, N, 4)]
    assert (np.concatenate(parts) == drawn_states).all()
    for seed, step, at in ((8, 3, place), (7, 4, place), (7, 3, place + 1)):
        assert (split.draw(place, seed, step, at) != drawn_states).mean() > 0.99


def test_what_arrays_hold_is_asked_where_nothing_tells(tmp_path: Path) -> None:
    root = str(class_folders(tmp_path / "data", MOMENTS))
    words = "has arrays [8, 6, 6]: write holds: samples for 8 channels or, if they are moments of 4, holds: mean_std or"
    with pytest.raises(ValueError, match=re.escape(words)):
        _ = LatentFiles(path=root, scale=1.0).shape
    assert LatentFiles(path=root, scale=1.0, holds="samples").shape == (8, SIDE, SIDE)
    assert LatentFiles(path=root, scale=1.0, holds="mean_std").shape == (4, SIDE, SIDE)
    odd = str(class_folders(tmp_path / "odd", MEAN[:, :3]))
    with pytest.raises(ValueError, match="an odd number of channels cannot be mean_logvar"):
        _ = LatentFiles(path=odd, scale=1.0, holds="mean_logvar").shape


def test_a_log_variance_is_never_taken_for_a_standard_deviation(tmp_path: Path) -> None:
    rows = np.concatenate([MEAN, 2 * np.log(STD)], 1)
    data = LatentFiles(path=str(class_folders(tmp_path / "data", rows)), scale=1.0, holds="mean_std")
    (problem,) = data.inspect()
    assert "has negative standard deviations; if its second half is a log-variance, write holds: mean_logvar" in problem


def test_the_scale_must_be_told(tmp_path: Path) -> None:
    for make, _ in LAYOUTS.values():
        root = make(tmp_path / make.__name__ / str(len(list(tmp_path.iterdir()))))
        with pytest.raises(ValueError, match=r"does not say how its latents are scaled; write scale: 1 if"):
            _ = LatentFiles(path=str(root)).shape


def test_scale_and_shift_of_each_channel(tmp_path: Path) -> None:
    root = str(class_folders(tmp_path / "data"))
    images, _ = everything(LatentFiles(path=root, scale=(1.0, 2.0, 3.0, 4.0), shift=(0.0, 0.0, 1.0, 0.0)))
    plain, _ = everything(LatentFiles(path=root, scale=1.0))
    np.testing.assert_allclose(images[:, 2], (plain[:, 2] - 1) * 3, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(images[:, 3], plain[:, 3] * 4, rtol=1e-6)
    with pytest.raises(ValueError, match="scale has 3 values for 4 channels"):
        _ = LatentFiles(path=root, scale=(1.0, 2.0, 3.0)).shape


def test_statistics_beside_shards_are_used_and_told(tmp_path: Path) -> None:
    """LightningDiT trains on (z - mean) / std * latent_multiplier."""
    root = str(lightning_dit(tmp_path / "data", statistics=True))
    for fields, factor in (({}, 1.0), ({"scale": 0.5}, 0.5)):
        data = LatentFiles(path=root, **fields)
        assert data.notes()[0].endswith("samples, normalised by latents_stats.pt")
        channel = np.arange(1, C + 1, dtype=np.float32).reshape(-1, 1, 1)
        expected = (MEAN - channel) / (0.5 * channel) * factor
        images, labels = everything(data)
        np.testing.assert_allclose(images, expected[noise.permutation(0, 0, N)], rtol=1e-5, atol=1e-5)
        assert (labels == LABELS[noise.permutation(0, 0, N)]).all()
    ignored = LatentFiles(path=root, statistics="ignore", scale=1.0)
    assert pairs(*everything(ignored)) == pairs(MEAN, LABELS)
    assert data.inspect() == []


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("held", ["code", "no table", "no std", "zero"])
def test_statistics_are_read_as_weights_alone(tmp_path: Path, held: str) -> None:
    root, trap = lightning_dit(tmp_path / "data", statistics=True), tmp_path / "sprung"
    mean = torch.zeros(1, C, 1, 1)
    files = {"code": Trap(str(trap)), "no table": mean, "no std": {"mean": mean}, "zero": {"mean": mean, "std": mean}}
    torch.save(files[held], root / "latents_stats.pt")
    with pytest.raises(ValueError, match=r"data/latents_stats\.pt"):
        LatentFiles(path=str(root)).open("train")
    assert not trap.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_of_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    images, labels = everything(LatentFiles(path=str(lightning_dit(tmp_path / "data", dtype)), scale=1.0))
    assert pairs(images, labels) == pairs(torch.from_numpy(MEAN).to(dtype).float().numpy(), LABELS)


@pytest.mark.parametrize("layout", ["shards", "npz"])
def test_flips_are_the_stored_ones_in_training_alone(tmp_path: Path, layout: str) -> None:
    path = (
        lightning_dit(tmp_path / "data")
        if layout == "shards"
        else npz(tmp_path / "x.npz", latents=MEAN, latents_flip=FLIPPED, labels=LABELS)
    )
    data = LatentFiles(path=str(path), scale=1.0, flip=True, held_out=0.2)
    split = data.open("train")
    assert (len(split), split.originals, len(data.open("held_out"))) == (18, 9, 2)
    images, labels = everything(data)
    order = noise.permutation(0, 0, N)[2:]
    assert (images == np.concatenate([MEAN[order], FLIPPED[order]])).all()
    assert (labels == np.concatenate([LABELS[order]] * 2)).all()
    with pytest.raises(ValueError, match=r"has no latents of mirrored images \(it is REPA's .*\); remove flip"):
        _ = LatentFiles(path=str(repa(tmp_path / "repa")), scale=1.0, flip=True).shape


def test_splits_of_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path / "data/Train")
    put(tmp_path / "data/valid/class2/x.npy", MEAN[0])
    (tmp_path / "data/readme.md").write_text("x")
    data = LatentFiles(path=str(tmp_path / "data"), scale=1.0)
    assert data.class_names == tuple(f"class{i}" for i in range(CLASSES))
    assert data.notes()[1:] == ["1 of 13 files are left out: 1 .md"]
    assert everything(data, "held_out")[1].tolist() == [2]
    with pytest.raises(ValueError, match=r"has a folder valid/, so held_out: 0\.1 must go"):
        LatentFiles(path=str(tmp_path / "data"), scale=1.0, held_out=0.1).open("train")


def test_the_number_of_classes_can_be_told(tmp_path: Path) -> None:
    root = str(fast_dit(tmp_path / "data"))
    assert LatentFiles(path=root, scale=1.0, classes=1000).num_classes == 1000
    with pytest.raises(ValueError, match="has 5 classes, so classes: 4 is too small"):
        _ = LatentFiles(path=root, scale=1.0, classes=4).num_classes


def test_labels_in_a_file_each_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nag.datasets import latent_files, latent_layouts

    root = str(fast_dit(tmp_path / "data"))
    data, read = LatentFiles(path=root, scale=1.0), latent_layouts._array_in
    assert data.num_classes == CLASSES
    latent_files._opened.cache_clear()
    opened: list[str] = []
    monkeypatch.setattr(
        latent_layouts, "_array_in", lambda path, name, size: opened.append(name) or read(path, name, size)
    )
    assert data.num_classes == CLASSES
    assert opened == ["imagenet256_features/0.npy"]


@pytest.mark.parametrize("name", ["REPA", "LightningDiT", "fast-DiT"])
def test_a_url_gives_the_same_latents(tmp_path: Path, name: str) -> None:
    root = LAYOUTS[name][0](tmp_path / "data")
    system, url = fsspec.filesystem("memory"), f"memory://latents-{name.replace(' ', '')}"
    for path in root.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/{url[9:]}/{path.relative_to(root)}", path.read_bytes())
    assert listing(url) == listing(str(root))
    here, there = (everything(LatentFiles(path=path, scale=1.0)) for path in (str(root), url))
    assert (here[0] == there[0]).all()
    assert (here[1] == there[1]).all()


def damage(root: Path, kind: str) -> Path:
    """A data set with one thing wrong."""
    match kind:
        case "nothing":
            root.mkdir()
        case "pictures":
            (root / "a").mkdir(parents=True)
            (root / "a/0.png").write_bytes(b"x")
        case "REPA's parent":
            repa(root / "vae-sd")
        case "an unlabelled file":
            put(repa(root) / "00000/extra.npy", MEAN[0])
        case "no label file":
            (fast_dit(root) / "imagenet256_labels/3.npy").unlink()
        case "a label that is no number":
            put(fast_dit(root) / "imagenet256_labels/3.npy", np.array([0.5]))
        case "a shard without labels":
            save_file({"latents": torch.zeros(2, C, 2, 2)}, lightning_dit(root) / "latents_rank09.safetensors")
        case "labels that are no numbers of classes":
            tensors = {"latents": torch.zeros(2, C, SIDE, SIDE), "labels": torch.zeros(2)}
            save_file(tensors, lightning_dit(root) / "latents_rank09.safetensors")
        case "a label below zero":
            return npz(root / "x.npz", latents=MEAN, labels=LABELS - 1)
        case "a shard of another shape":
            tensors = {"latents": torch.zeros(2, C, 2, 2), "labels": torch.zeros(2, dtype=torch.int64)}
            save_file(tensors, lightning_dit(root) / "latents_rank09.safetensors")
        case "a cut shard":
            shard = lightning_dit(root) / "latents_rank00_shard000.safetensors"
            shard.write_bytes(shard.read_bytes()[:-9])
        case "whole numbers":
            put(class_folders(root) / "class0/001.npy", np.zeros((C, SIDE, SIDE), int))
        case "pickled":
            np.save(class_folders(root) / "class0/001.npy", np.array([None]), allow_pickle=True)
        case "cut":
            path = class_folders(root) / "class0/001.npy"
            path.write_bytes(path.read_bytes()[:-9])
        case "other labels":
            return npz(root / "x.npz", latents=MEAN, labels=LABELS[:4])
        case "no latents":
            return npz(root / "x.npz", pictures=MEAN)
    return root


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nothing", r"has no latents in a known layout; it has no files, and known are \.npy files"),
        ("pictures", r"has no latents in a known layout; it has \.png, and known are"),
        ("REPA's parent", r"is REPA's folder of images and latents; give that of the latents, .*/data/vae-sd"),
        ("an unlabelled file", r"dataset\.json has no label for 00000/extra\.npy \(1 of 12 latents have none\)"),
        ("no label file", r"there is no .*/imagenet256_labels/3\.npy \(1 of 11 latents have no label\)"),
        (
            "a label that is no number",
            r"imagenet256_labels/3\.npy is float64 \(1,\); a label is one whole number from 0",
        ),
        ("a shard without labels", r"latents_rank09\.safetensors is not a valid shard of latents: it has no labels"),
        ("labels that are no numbers of classes", r"latents are float32 \(2, 4, 6, 6\), labels float32 \(2,\)"),
        ("a label below zero", r"x\.npz: labels go down to -1; classes are numbered from 0"),
        ("a shard of another shape", r"the shards have latents of several shapes: \(4, 2, 2\), \(4, 6, 6\)"),
        ("a cut shard", r"latents_rank00_shard000\.safetensors is not a valid shard of latents: the file is cut off"),
        ("whole numbers", r"class0/001\.npy is int64 \(4, 6, 6\); a latent is floating-point \(C, H, W\)"),
        ("pickled", r"class0/001\.npy is not a valid \.npy file \(Object arrays cannot be loaded"),
        ("cut", r"class0/001\.npy is not a valid \.npy file"),
        ("other labels", r"labels is int64 \(4,\); it must be whole numbers \(11,\)"),
        ("no latents", "has no array latents or moments or samples or arr_0; it has pictures"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, kind: str, words: str) -> None:
    (problem,) = LatentFiles(path=str(damage(tmp_path / "data", kind)), scale=1.0).inspect()
    assert re.search(words, problem), problem


def test_values_and_shapes_that_differ_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data")
    bad = MEAN[3].copy()
    bad[0, 0, 0] = np.nan
    np.save(root / "class1/003.npy", bad)
    with pytest.raises(ValueError, match=r"class1/003\.npy has values that are not finite"):
        everything(LatentFiles(path=str(root), scale=1.0))
    np.save(root / "class1/003.npy", MEAN[3, :, :4])
    with pytest.raises(ValueError, match=r"class1/003\.npy is \(4, 4, 6\), class0/001\.npy \(4, 6, 6\)"):
        everything(LatentFiles(path=str(root), scale=1.0))


def test_pointers_and_empty_files_are_found_among_all_names(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data")
    (root / "class1/010.npy").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\n")
    (problem,) = LatentFiles(path=str(root), scale=1.0).inspect()
    assert "1 of 11 files are pointers of Git LFS, such as class1/010.npy" in problem
    (root / "class1/010.npy").write_bytes(b"")
    (problem,) = LatentFiles(path=str(root), scale=1.0).inspect()
    assert problem == f"{root}: 1 files are empty, such as class1/010.npy"
