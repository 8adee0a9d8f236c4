"""Data sets: images in [-1, 1] with class labels. A data set is a method with `open(split) -> Split`.

Add one: a file here with a class that has `shape`, `num_classes`, `stores` and `open`, and a line in `nag/registry.py`.
One that reads files in place names the fields that hold their paths in `FOLDERS`; the files' listing is its identity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, overload

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


SPLITS = ("train", "held_out")


class Dataset(Protocol):
    """`official`, `flip`, `at_most`, `inspect`, `notes` and `class_names` may be left out (`nag.registry.OPTIONAL`)."""

    official: ClassVar[Official | None] = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def stores(self) -> str:
        """Either "pixels" or "latents"."""
        ...

    @property
    def flip(self) -> bool:
        """Whether the training split also has each image mirrored."""
        return False

    @property
    def at_most(self) -> int | None:
        """Both splits have no more images than this, by names and headers alone; None: only opening them tells."""
        return None

    def open(self, split: str) -> Split: ...

    def inspect(self) -> list[str]:
        """The problems of its files, one line each."""
        return []

    def notes(self) -> list[str]:
        """What to know of its files that is not a mistake, one line each, from names and headers alone."""
        return []

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, in the order of their labels; () if they have none."""
        return ()


class Official(NamedTuple):
    """The classes and images of a known data set."""

    classes: tuple[int, ...]  # the possible numbers of classes
    train: int | None  # images; None: the data set has no official split
    held_out: int | None
    total: tuple[int, ...] = ()  # possible numbers of images of both splits, if only these are known


class Split(Protocol):
    """One part of a data set, read by index. Its order is shuffled, so any range of indices is a fair sample.

    A split may also have `originals`, the number of its images without flips, which come first and alone make a
    reference; `name(i)`, the location of image i, for messages; `skipped`, by name, why images were replaced by others;
    `draw`, as in `LatentSplit`, for images that are drawn anew in each epoch. A held-out split is empty if the data set
    has no held-out images.
    """

    def __len__(self) -> int: ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, C, H, W) float32 in [-1, 1]."""

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """(n,) int64 in 0 .. num_classes - 1."""


class ArraySplit:
    """A split that fits in memory.

    images: (N, C, H, W) in [-1, 1]; labels: (N,) integers. Raises ValueError if their shapes do not fit.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        import numpy as np

        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(f"images must be (N, C, H, W) and labels (N,); got {images.shape} and {labels.shape}")
        self._images = np.ascontiguousarray(images, dtype=np.float32)
        self._labels = np.ascontiguousarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self._images[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._labels[indices]


def check_split(split: str) -> None:
    """Raise ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


def originals(split: Split) -> int:
    """The number of its images without flips, to which references, counts and shares refer."""
    return getattr(split, "originals", len(split))


def skipped(split: Split) -> dict[str, str]:
    """By name, why images could not be read and were replaced."""
    return dict(getattr(split, "skipped", {}))


def drawn(split: Split, indices: np.ndarray, seed: int, step: int, places: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W), drawn from (seed, step, place) if the split has a distribution for each image."""
    draw = getattr(split, "draw", None)
    return split.images(indices) if draw is None else draw(indices, seed, step, places)


def listing(path: str, *, compute: bool = True) -> str:
    """The identity of a data set: a checksum of names, sizes and content of its files (`nag.datasets.listing`), or of
    the content of a single file. The path does not count. Without `compute`, a large single file that was never read
    gets an identity equal to no other.

    In a data set of very many files two changes can go unnoticed: a file replaced by another of the same name and size,
    and, until its folder changes or `check --deep` reads everything again, a file overwritten in place.
    """
    from nag.datasets.listing import read_listing

    return read_listing(path, names=False, compute=compute).checksum


@overload
def to_uint8(x: np.ndarray) -> np.ndarray: ...
@overload
def to_uint8(x: Tensor) -> Tensor: ...
def to_uint8(x: Any) -> Any:
    """Pixels in the stored form: [-1, 1] to 0 .. 255, clipped, (x + 1) * 127.5 rounded half to even.

    An array gives an array, a tensor a tensor on its device. Raises ValueError if a value is not finite.
    """
    if not bool((abs(x) < math.inf).all()):
        raise ValueError("to_uint8: a pixel is not finite")
    levels = ((x.clip(-1, 1) + 1) * 127.5).round()
    if hasattr(levels, "detach"):
        import torch

        return levels.to(torch.uint8)
    return levels.astype("uint8")
