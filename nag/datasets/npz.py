"""Images or latents in one .npz file, in the format of ADM's evaluator: `{name: npz, path: FILE or fsspec URL}`."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.datasets.dataset import Dataset, check_split
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.arrays import Header

IMAGES, LABELS = ("arr_0", "images", "latents"), ("arr_1", "labels")
FORMS = "uint8 (N, H, W, 1 or 3) for pixels, or floating-point (N, C, H, W) for latents"


@method
class Npz(Dataset):
    """`arr_0` (or `images`, `latents`): uint8 (N, H, W, C) are pixels, floating-point (N, C, H, W) are latents, used
    as they are. `arr_1` (or `labels`): (N,) whole numbers from 0; without it there is one class.

    held_out: this share of the images is kept out of the training split; 0: the held-out split is empty. An
    uncompressed file (`numpy.savez`) is memory-mapped, a compressed one read as a whole.
    path: the file.
    """

    path: str
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0

    VERSION: ClassVar[int] = 1
    FOLDERS: ClassVar[tuple[str, ...]] = ("path",)

    @property
    def stores(self) -> str:
        return "pixels" if _described(self._local)[1].dtype == "uint8" else "latents"

    @property
    def shape(self) -> tuple[int, int, int]:
        a, b, c = _described(self._local)[1].shape[1:]
        return (c, a, b) if self.stores == "pixels" else (a, b, c)

    @property
    def num_classes(self) -> int:
        return _classes(self._local)

    @property
    def at_most(self) -> int:
        return _described(self._local)[1].shape[0]

    @property
    def _local(self) -> tuple[str, int, int]:
        """The local path of the file, and its size and modification time, to notice changes."""
        from nag.datasets.listing import local

        path = local(self.path)
        stat = os.stat(path)
        return path, stat.st_size, stat.st_mtime_ns

    def open(self, split: str) -> NpzSplit:
        """split: "train" or "held_out". Raises OSError or ValueError, naming the path, if it is not a valid file."""
        from nag.noise import permutation

        check_split(split)
        where = self._local
        count = _described(where)[1].shape[0]
        order = permutation(0, 0, count)
        kept = max(1, round(self.held_out * count)) if self.held_out else 0
        rows = order[:kept] if split == "held_out" else order[kept:]
        if split == "train" and len(rows) < 2:
            raise ValueError(f"{self.path}: {len(rows)} images to train on; at least 2 are needed")
        return NpzSplit(self.path, where, rows)


class NpzSplit:
    """Rows of the arrays of an .npz file."""

    def __init__(self, shown: str, where: tuple[str, int, int], rows: np.ndarray) -> None:
        import numpy as np

        from nag.datasets.arrays import array

        name, header, labels = _described(where)
        self._shown, self._rows = shown, rows
        self._pixels = header.dtype == "uint8"
        self._images = array(where[0], name)
        self._labels = (
            np.zeros(len(rows), np.int64) if labels is None else array(where[0], labels)[rows].astype(np.int64)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, C, H, W) float32: pixels in [-1, 1], latents as they are. Raises ValueError if one is not finite."""
        import numpy as np

        batch = self._images[self._rows[indices]]
        if self._pixels:
            return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(127.5) - 1
        batch = np.ascontiguousarray(batch, dtype=np.float32)
        bad = ~np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
        if bad.any():
            raise ValueError(f"{self.name(int(np.asarray(indices)[bad][0]))} has values that are not finite")
        return batch

    def name(self, i: int) -> str:
        return f"{self._shown}: row {self._rows[i]}"

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._labels[indices]


@functools.lru_cache(maxsize=16)
def _described(where: tuple[str, int, int]) -> tuple[str, Header, str | None]:
    """Name and header of the array of images, and the name of the array of labels, None if there is none."""
    from nag.datasets.arrays import headers

    path, by_name = where[0], headers(where[0])
    name = next((name for name in IMAGES if name in by_name), None)
    if name is None:
        raise ValueError(f"{path} has no array {' or '.join(IMAGES)}; it has {', '.join(by_name) or 'none'}")
    header, kind = by_name[name], by_name[name].dtype.kind
    pixels = header.dtype == "uint8" and len(header.shape) == 4 and header.shape[3] in (1, 3)
    if not pixels and not (kind == "f" and len(header.shape) == 4):
        raise ValueError(f"{path}: {name} is {header.dtype} {header.shape}; it must be {FORMS}")
    labels = next((name for name in LABELS if name in by_name), None)
    if labels is not None and (by_name[labels].dtype.kind not in "iu" or by_name[labels].shape != header.shape[:1]):
        shown = f"{by_name[labels].dtype} {by_name[labels].shape}"
        raise ValueError(f"{path}: {labels} is {shown}; it must be whole numbers ({header.shape[0]},)")
    return name, header, labels


@functools.lru_cache(maxsize=16)
def _classes(where: tuple[str, int, int]) -> int:
    from nag.datasets.arrays import array

    labels = _described(where)[2]
    if labels is None:
        return 1
    values = array(where[0], labels)
    if len(values) and values.min() < 0:
        raise ValueError(f"{where[0]}: {labels} goes down to {values.min()}; classes are numbered from 0")
    return int(values.max()) + 1 if len(values) else 1
