"""Layouts in which people save latents of images, found by looking at names.

one array a file (.npy)  in class folders or with a dataset.json, as REPA's preprocessing writes them
fast-DiT                 SIZE_features/N.npy beside SIZE_labels/N.npy
LightningDiT             *.safetensors with latents, latents_flip and labels, often with a latents_stats.pt
.npz                     latents or moments (N, C, H, W), perhaps latents_flip or moments_flip, and labels

Arrays are never unpickled, and rows are read when they are needed.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nag import cache
from nag.datasets import labelled_files
from nag.datasets.arrays import array, headers
from nag.datasets.labelled_files import LATENTS

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.listing import Listing

STATISTICS = "latents_stats.pt"
ARRAYS = ("latents", "moments", "samples", "arr_0")
READERS = 16  # threads
FIX = (
    "known are .npy files in class folders or with a dataset.json, fast-DiT's two folders, LightningDiT's shards, .npz"
)


class Stored(NamedTuple):
    """The latents of a split as they are stored. read(i, mirrored): (C, H, W) of latent i, as float16 or float32."""

    layout: str  # words for people
    shape: tuple[int, int, int]
    labels: np.ndarray  # (N,) int64
    read: Callable[[int, bool], np.ndarray]
    name: Callable[[int], str]
    mirrored: bool = False  # whether latents of the mirrored images are stored too
    holds: str | None = None  # what they are, if the layout says so
    by_folder: bool = False  # whether splits and classes are those of the folders or of a dataset.json
    statistics: bool = False  # whether there is a latents_stats.pt


def stored(path: str, listing: Listing, split: str) -> Stored:
    """The latents at a path. A layout without splits has the same ones in both. Raises OSError, or ValueError that
    names the path, for other files and damaged ones.
    """
    if listing.names == ("",):
        return _from_npz(path)
    shards = [name for name in listing.names if "/" not in name and name.endswith(".safetensors")]
    if shards:
        return _from_shards(path, listing, shards)
    pairs = _features_and_labels(listing)
    if pairs is not None:
        return _from_pairs(path, listing, *pairs)
    if any(kind == ".npy" for _, kind, _ in listing.counts):
        return _from_files(path, listing, split)
    kinds = sorted({kind or "names without a suffix" for _, kind, _ in listing.counts})
    raise ValueError(f"{path} has no latents in a known layout; it has {', '.join(kinds) or 'no files'}, and {FIX}")


def _from_files(path: str, listing: Listing, split: str) -> Stored:
    inner = next((name for name in listing.names if name.endswith("vae-sd/dataset.json")), None)
    if inner is not None and not listing.labels:
        raise ValueError(f"{path} is REPA's folder of images and latents; give that of the latents, {path}/vae-sd")
    files, labels = labelled_files.indexed(path, listing, split, LATENTS)
    kind = ".npy files with a dataset.json" if listing.labels else ".npy files in class folders"
    holds = "mean_std" if files[0][0].rpartition("/")[2].startswith("img-mean-std-") else None
    found = _one_array_a_file(path, files, labels, f"REPA's {kind}" if holds else kind, holds)
    return found._replace(by_folder=True)


def _features_and_labels(listing: Listing) -> tuple[str, str] | None:
    """The two folders of fast-DiT, such as imagenet256_features and imagenet256_labels."""
    for folder in listing.folders:
        labels = folder.removesuffix("_features") + "_labels"
        if folder.endswith("_features") and labels in listing.folders:
            return folder, labels
    return None


def _from_pairs(path: str, listing: Listing, features: str, labels: str) -> Stored:
    sizes = dict(zip(listing.names, listing.sizes, strict=True))
    files = [(name, size) for name, size in sizes.items() if name.startswith(f"{features}/") and name.endswith(".npy")]
    beside = [f"{labels}/{name[len(features) + 1 :]}" for name, _ in files]
    bare = [name for name in beside if name not in sizes]
    if bare:
        raise ValueError(f"there is no {path}/{bare[0]} ({len(bare):,} of {len(files):,} latents have no label)")
    if not files:
        raise ValueError(f"there are no .npy files in {path}/{features}")
    given = _labels_of(path, listing, [(name, sizes[name]) for name in beside])
    return _one_array_a_file(path, files, given, f"fast-DiT's {features} and {labels}", "samples")


def _labels_of(path: str, listing: Listing, files: list[tuple[str, int]]) -> list[int]:
    """The label in each file. They are cached by the listing, because there may be a million."""
    kept = cache.folder("labels") / f"{listing.checksum}.json"
    try:
        labels = json.loads(kept.read_text())
        if len(labels) == len(files) and all(isinstance(label, int) for label in labels):
            return list(labels)
    except (OSError, ValueError, TypeError):
        pass

    def label(name: str, size: int) -> int:
        value = _array_in(path, name, size)
        if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
            raise ValueError(f"{path}/{name} is {value.dtype} {value.shape}; a label is one whole number from 0")
        return int(value.item())

    with ThreadPoolExecutor(READERS) as pool:
        labels = list(pool.map(lambda file: label(*file), files))
    cache.keep(kept, json.dumps(labels))
    return labels


def _one_array_a_file(
    path: str, files: list[tuple[str, int]], labels: list[int], layout: str, holds: str | None
) -> Stored:
    import numpy as np

    shape = _state(_array_in(path, *files[0]), f"{path}/{files[0][0]}").shape

    def read(i: int, mirrored: bool) -> np.ndarray:
        del mirrored
        row = _state(_array_in(path, *files[i]), f"{path}/{files[i][0]}")
        if row.shape != shape:
            raise ValueError(f"{path}/{files[i][0]} is {row.shape}, {files[0][0]} {shape}")
        return row

    return Stored(layout, shape, np.asarray(labels, np.int64), read, lambda i: f"{path}/{files[i][0]}", holds=holds)


def _array_in(path: str, name: str, size: int) -> np.ndarray:
    """The array in an .npy file. Raises ValueError, naming the file, if it is damaged or pickled."""
    import numpy as np

    from nag.datasets.listing import local

    with open(local(path, name, size), "rb") as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError) as error:
            raise ValueError(
                f"{path}/{name} is not a valid .npy file ({' '.join(str(error).split())[:120]})"
            ) from error


def _state(row: np.ndarray, name: str) -> np.ndarray:
    """An array as (C, H, W); a first axis of length 1 is dropped, as fast-DiT stores it."""
    row = row[0] if row.ndim == 4 and len(row) == 1 else row
    if row.ndim != 3 or row.dtype.kind != "f":
        raise ValueError(f"{name} is {row.dtype} {row.shape}; a latent is floating-point (C, H, W)")
    return row


def _from_shards(path: str, listing: Listing, shards: list[str]) -> Stored:
    import numpy as np

    from nag.datasets.listing import local

    sizes = dict(zip(listing.names, listing.sizes, strict=True))
    mapped = [_mapped(local(path, name, sizes[name])) for name in shards]
    latents = [arrays["latents"] for arrays in mapped]
    kinds = {array.shape[1:] for array in latents}
    if len(kinds) > 1:
        raise ValueError(f"{path}: the shards have latents of several shapes: {', '.join(map(str, sorted(kinds)))}")
    ends = np.cumsum([len(array) for array in latents])
    flips = all("latents_flip" in arrays for arrays in mapped)

    def read(i: int, mirrored: bool) -> np.ndarray:
        shard = int(np.searchsorted(ends, i, side="right"))
        rows = mapped[shard]["latents_flip" if mirrored else "latents"]
        row = rows[i - int(ends[shard])]  # counted from the end of the shard
        return (row.astype(np.uint32) << 16).view(np.float32) if rows.dtype == np.uint16 else row  # bfloat16

    labels = np.concatenate([arrays["labels"] for arrays in mapped]).astype(np.int64)
    layout = f"LightningDiT's shards ({len(shards):,} of .safetensors{', with mirrored latents' if flips else ''})"
    where = functools.partial(_row_of_shard, path, shards, ends)
    return Stored(layout, latents[0].shape[1:], labels, read, where, flips, statistics=STATISTICS in sizes)


def _row_of_shard(path: str, shards: list[str], ends: np.ndarray, i: int) -> str:
    shard = int(ends.searchsorted(i, side="right"))
    return f"{path}/{shards[shard]}: row {i - (int(ends[shard - 1]) if shard else 0)}"


def _mapped(path: str) -> dict[str, np.ndarray]:
    """The arrays of a shard as read-only views of the file; bfloat16 as uint16."""
    import numpy as np

    from nag import header

    types = {"F16": "<f2", "F32": "<f4", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
    arrays: dict[str, np.ndarray] = {}
    try:
        with open(path, "rb") as file:
            tensors = header.read(file, os.fstat(file.fileno()).st_size).tensors
            start = file.tell()
        for name in {"latents", "latents_flip", "labels"} & tensors.keys():
            tensor = tensors[name]
            if tensor.dtype not in types:
                raise ValueError(f"{name} is {tensor.dtype}; known are {', '.join(types)}")
            empty = not math.prod(tensor.shape)
            at = start + tensor.data_offsets[0]
            shape = tuple(tensor.shape)
            arrays[name] = np.zeros(shape) if empty else np.memmap(path, types[tensor.dtype], "r", at, shape)
        lacking = {"latents", "labels"} - arrays.keys()
        if lacking:
            raise ValueError(f"it has no {' and '.join(sorted(lacking))}; it has {', '.join(sorted(tensors)[:8])}")
        latents, labels = arrays["latents"], arrays["labels"]
        fits = labels.shape[:1] == latents.shape[:1] and labels.size == len(latents) and labels.dtype.kind == "i"
        if latents.ndim != 4 or not fits or latents.dtype.kind == "i":
            raise ValueError(f"latents are {latents.dtype} {latents.shape}, labels {labels.dtype} {labels.shape}")
        if arrays.get("latents_flip", latents).shape != latents.shape:
            raise ValueError(f"latents are {latents.shape}, latents_flip {arrays['latents_flip'].shape}")
    except ValueError as error:
        raise ValueError(f"{path} is not a valid shard of latents: {error}") from error
    return arrays | {"labels": labels.reshape(-1)}


def _from_npz(path: str) -> Stored:
    import numpy as np

    from nag.datasets.listing import local

    place = local(path)
    by_name = headers(place)
    name = next((name for name in ARRAYS if name in by_name), None)
    if name is None:
        raise ValueError(f"{path} has no array {' or '.join(ARRAYS)}; it has {', '.join(by_name) or 'none'}")
    held = by_name[name]
    if held.dtype.kind != "f" or len(held.shape) != 4:
        raise ValueError(f"{path}: {name} is {held.dtype} {held.shape}; latents are floating-point (N, C, H, W)")
    rows = {False: array(place, name)}
    if (flip := f"{name}_flip") in by_name:
        rows[True] = array(place, flip)
        if rows[True].shape != held.shape:
            raise ValueError(f"{path}: {name} is {held.shape}, {flip} {rows[True].shape}")
    labelled = next((each for each in ("labels", "label", "arr_1") if each in by_name), None)
    labels = np.zeros(held.shape[0], np.int64) if labelled is None else np.asarray(array(place, labelled))
    if labels.shape != held.shape[:1] or labels.dtype.kind not in "iu":
        wanted = f"it must be whole numbers ({held.shape[0]},)"
        raise ValueError(f"{path}: {labelled} is {labels.dtype} {labels.shape}; {wanted}")
    layout = f"one .npz of {name}{' with mirrored ones' if True in rows else ''}"

    def read(i: int, mirrored: bool) -> np.ndarray:
        return rows[mirrored][i]

    shape, labels = held.shape[1:], labels.astype(np.int64)
    return Stored(layout, shape, labels, read, lambda i: f"{path}: row {i}", True in rows)


def statistics_in(path: str, listing: Listing) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the channels, float64 (C,), in the latents_stats.pt of a folder; weights only.

    Raises ValueError, naming the file, if it is not a table of a mean and a positive standard deviation.
    """
    from nag.datasets.listing import local
    from nag.weights.torch_file import read_torch

    sizes = dict(zip(listing.names, listing.sizes, strict=True))
    try:
        held = read_torch(Path(local(path, STATISTICS, sizes[STATISTICS])))
        mean, std = (held[name].read().double().reshape(-1).numpy() for name in ("mean", "std"))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}/{STATISTICS} is not a table of tensors mean and std ({reason})") from error
    if mean.shape != std.shape or not (math.isfinite(mean.sum()) and math.isfinite(std.sum()) and (std > 0).all()):
        raise ValueError(
            f"{path}/{STATISTICS}: mean {mean.shape} and std {std.shape} are not of channels, or not finite"
        )
    return mean, std
