"""Handwritten digits, 8x8, from scikit-learn: 1,797 images in ten classes (the test part of UCI optdigits)."""

from __future__ import annotations

import functools
from importlib.metadata import distribution
from typing import TYPE_CHECKING, ClassVar

from nag.datasets.dataset import ArraySplit, Dataset
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

FILE = "sklearn/datasets/data/digits.csv.gz"
SPLITS = ("train", "held_out")


@method
class Digits(Dataset):
    """Image i of the file is held out if i % 5 == 4 (359 images); the others are for training (1,438).

    Neighbours in the file are alike (often by one writer), so held-out images are new, but their writers are not. Each
    split has a fixed shuffled order, so any range of its indices is a fair sample, and so are the halves that FID
    extrapolates from.
    """

    VERSION: ClassVar[int] = 1
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    num_classes: ClassVar[int] = 10
    stores: ClassVar[str] = "pixels"
    at_most: ClassVar[int] = 1797

    def open(self, split: str) -> ArraySplit:
        """The images, 0 .. 16 mapped to [-1, 1], of "train" or "held_out". Raises ValueError for another name."""
        from nag.noise import permutation

        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        table = _table()
        order = permutation(0, 0, len(table))
        rows = order[(order % 5 == 4) == (split == "held_out")]
        return ArraySplit(table[rows, :-1].reshape(-1, *self.shape) / 8 - 1, table[rows, -1].astype(int))


@functools.cache  # a bundle opens a data set for its training, its references and its extractors
def _table() -> np.ndarray:
    """(1797, 65): 64 pixels and a label. Nobody may change it."""
    import numpy as np

    # the file alone: sklearn.datasets.load_digits would import scipy and much of scikit-learn for it, two seconds
    return np.loadtxt(str(distribution("scikit-learn").locate_file(FILE)), delimiter=",")
