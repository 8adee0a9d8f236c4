"""Data sets: images in [-1, 1] with class labels. A data set is a method with `open(split) -> Split`.

Add one: a file here with a class that has `shape`, `num_classes`, `stores` and `open`, and a line in `nag/registry.py`.
One that reads files in place names the fields with their paths in `FOLDERS`; their listing is its identity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, overload

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


SPLITS = ("train", "held_out")


class Dataset(Protocol):
    """`official`, `flip` and `inspect` may be left out: `nag.registry.OPTIONAL`."""

    official: ClassVar[Official | None] = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def stores(self) -> str:
        """pixels or latents."""
        ...

    @property
    def flip(self) -> bool:
        """Whether the training split has each image twice, the second one mirrored."""
        return False

    def open(self, split: str) -> Split: ...

    def inspect(self) -> list[str]:
        """The problems of its files, a line each."""
        return []


class Official(NamedTuple):
    """The classes and images of a known data set."""

    classes: tuple[int, ...]  # any of these
    train: int | None  # images; None: no one split is the data set's own
    held_out: int | None
    total: tuple[int, ...] = ()  # images of both, where only that is known


class Split(Protocol):
    """One part of a data set, read by index. It is in shuffled order, so any run of indices is a fair sample.

    A split may also have `originals`, the number of its images before flips: those come first, and a reference is made
    of them alone; `name(i)`, where image i lies, for messages; `skipped`, what was wrong with images that others
    replace, by name; `draw`, as `LatentSplit` has it, for images that are drawn anew in each epoch. A held-out split
    may be empty: the data set then has no held-out images.
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
    """Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


def originals(split: Split) -> int:
    """The number of its images without flips: a reference, a count or a share means these."""
    return getattr(split, "originals", len(split))


def skipped(split: Split) -> dict[str, str]:
    """What was wrong with images that could not be read and were replaced, by name."""
    return dict(getattr(split, "skipped", {}))


def drawn(split: Split, indices: np.ndarray, seed: int, step: int, places: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W), drawn from (seed, step, place) where the split has a distribution for each image."""
    draw = getattr(split, "draw", None)
    return split.images(indices) if draw is None else draw(indices, seed, step, places)


def listing(path: str, *, compute: bool = True) -> str:
    """The identity of a data set: a checksum of names, sizes and content of its files (`nag.datasets.listing`); of a
    single file, of its content. The path is not part of it. Without `compute` a large single file that was never read
    has an identity equal to no other.

    Not noticed in a data set of very many files: a file replaced by another of the same name and size; and, until its
    folder changes or `check --deep` reads all again, a file overwritten in place.
    """
    from nag.datasets.listing import read_listing

    return read_listing(path, names=False, compute=compute).checksum


@overload
def to_uint8(x: np.ndarray) -> np.ndarray: ...
@overload
def to_uint8(x: Tensor) -> Tensor: ...
def to_uint8(x: Any) -> Any:
    """Pixels as they are stored: [-1, 1] to 0 .. 255, clipped, (x + 1) * 127.5 rounded half to even.

    An array gives an array, a tensor a tensor on its device. Raises ValueError if a value is not finite.
    """
    if not bool((abs(x) < math.inf).all()):
        raise ValueError("to_uint8: a pixel is not finite")
    levels = ((x.clip(-1, 1) + 1) * 127.5).round()
    if hasattr(levels, "detach"):
        import torch

        return levels.to(torch.uint8)
    return levels.astype("uint8")
