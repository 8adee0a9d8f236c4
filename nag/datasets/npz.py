"""Images or latents in one .npz file, in the form of the ADM evaluator: `{name: npz, path: FILE or fsspec URL}`."""

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
    """`arr_0` (or `images`, `latents`): uint8 (N, H, W, C) are pixels, floating-point (N, C, H, W) are latents, taken
    as they are. `arr_1` (or `labels`): (N,) whole numbers from 0; without them all is one class.

    held_out: this share of the images is kept out of the training split; 0: the held-out split is empty. Images are
    read where they lie if the file is uncompressed (`numpy.savez`), else as a whole.
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
    def _local(self) -> tuple[str, int, int]:
        """Where the file lies here, and what tells that it is still the same."""
        from nag.datasets.listing import local

        path = local(self.path)
        stat = os.stat(path)
        return path, stat.st_size, stat.st_mtime_ns

    def open(self, split: str) -> NpzSplit:
        """ "train" or "held_out". Raises OSError or ValueError, with the path, if it is not such a file."""
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
        """(n, C, H, W) float32: pixels in [-1, 1], latents as they are. Raises ValueError where one is not finite."""
        import numpy as np

        found = self._images[self._rows[indices]]
        if self._pixels:
            return np.ascontiguousarray(found.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(127.5) - 1
        found = np.ascontiguousarray(found, dtype=np.float32)
        bad = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
        if bad.any():
            raise ValueError(f"{self.name(int(np.asarray(indices)[bad][0]))} has values that are not finite")
        return found

    def name(self, i: int) -> str:
        return f"{self._shown}: row {self._rows[i]}"

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._labels[indices]


@functools.lru_cache(maxsize=16)
def _described(where: tuple[str, int, int]) -> tuple[str, Header, str | None]:
    """The name and header of the images, the name of the labels."""
    from nag.datasets.arrays import headers

    path, found = where[0], headers(where[0])
    name = next((name for name in IMAGES if name in found), None)
    if name is None:
        raise ValueError(f"{path} has no array {' or '.join(IMAGES)}; it has {', '.join(found) or 'none'}")
    header, kind = found[name], found[name].dtype.kind
    pixels = header.dtype == "uint8" and len(header.shape) == 4 and header.shape[3] in (1, 3)
    if not pixels and not (kind == "f" and len(header.shape) == 4):
        raise ValueError(f"{path}: {name} is {header.dtype} {header.shape}; it must be {FORMS}")
    labels = next((name for name in LABELS if name in found), None)
    if labels is not None and (found[labels].dtype.kind not in "iu" or found[labels].shape != header.shape[:1]):
        shown = f"{found[labels].dtype} {found[labels].shape}"
        raise ValueError(f"{path}: {labels} is {shown}; it must be whole numbers ({header.shape[0]},)")
    return name, header, labels


@functools.lru_cache(maxsize=16)
def _classes(where: tuple[str, int, int]) -> int:
    from nag.datasets.arrays import array

    labels = _described(where)[2]
    if labels is None:
        return 1
    found = array(where[0], labels)
    if len(found) and found.min() < 0:
        raise ValueError(f"{where[0]}: {labels} goes down to {found.min()}; classes are numbered from 0")
    return int(found.max()) + 1 if len(found) else 1
