"""Synthetic images: a disc in the colour of its class. `--smoke` uses them in place of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.datasets.dataset import Dataset, check_split
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np


@method
class SyntheticImages(Dataset):
    """Image i is a function of (seed, i). Classes alternate and differ only in colour. `images` are for training; a
    quarter as many are held out.
    """

    classes: Annotated[Int, Field(ge=1, le=100_000)] = 10
    images: Annotated[Int, Field(ge=8)] = 256
    resolution: Annotated[Int, Field(ge=4, le=1024)] = 32
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0

    VERSION: ClassVar[int] = 1
    stores: ClassVar[str] = "pixels"

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.resolution, self.resolution

    @property
    def num_classes(self) -> int:
        return self.classes

    @property
    def at_most(self) -> int:
        return self.images + self.images // 4

    def open(self, split: str) -> SyntheticSplit:
        check_split(split)
        if split == "train":
            return SyntheticSplit(self, 0, self.images)
        return SyntheticSplit(self, self.images, self.images // 4)


class SyntheticSplit:
    """Images `first` to `first + count` of a data set."""

    def __init__(self, data: SyntheticImages, first: int, count: int) -> None:
        self.data, self.first, self.count = data, first, count

    def __len__(self) -> int:
        return self.count

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, 3, R, R) float32 in [-1, 1]."""
        import numpy as np

        from nag import noise

        index = np.asarray(indices) + self.first
        ground = noise.uniform(self.data.seed, index, 0, (3,))[:, :, None, None] / 5
        x, y, radius = noise.uniform(self.data.seed, index, 1, (3,)).T[..., None, None]
        colour = noise.uniform(self.data.seed, self.labels(indices), 2, (3,))[:, :, None, None]
        grid = (np.arange(self.data.resolution) + 0.5) / self.data.resolution
        distance = np.hypot(grid[None, None, :] - x, grid[None, :, None] - y)
        inside = 1 / (1 + np.exp((distance - 0.15 - 0.25 * radius) * self.data.resolution))[:, None]
        return (2 * (ground + (colour - ground) * inside) - 1).astype(np.float32)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        return (np.asarray(indices, dtype=np.int64) + self.first) % self.data.classes
