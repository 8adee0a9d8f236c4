"""Images in folders, one folder per class: `{name: image_folder, path: FOLDER or fsspec URL, resolution: 256}`."""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nag.datasets import labelled_files
from nag.datasets.dataset import Dataset, check_split
from nag.datasets.folder_layout import layout_of, readable
from nag.datasets.images import SUFFIXES, BadImage
from nag.datasets.prefetch import reader_threads
from nag.locations import is_url, is_web
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.listing import Listing
    from nag.datasets.synthetic import SyntheticImages

SMOKE_IMAGES = 64  # of each split, in a smoke run


@method
class ImageFolder(Dataset):
    """RGB images, cropped to `resolution` by ADM's centre crop; classes are the folders below `path`, sorted by name.

    path: a folder with class folders; or with train/ or training/, which has the class folders, and held_out/, val/,
        valid/, validation/ or test/ (in any case of letters; the first of these that exists is the held-out split); or
        with images only, which are one class; or with a dataset.json of EDM, which gives the labels. Images may also
        lie in subfolders of a class folder. `notes` tells what is left out (nag/datasets/folder_layout.py).
    flip: the training split also has each image mirrored: N + i is image i, mirrored. The held-out split never has.
    held_out: if there is no held-out folder, this share of the images, the same ones at any resolution, is kept out of
        the training split. 0 and no such folder: the held-out split is empty.
    on_error: for an image that cannot be read. `fail` stops and names it; `skip` uses the next image of its class and
        records it in the split's `skipped`. Disk and network errors always stop.
    limit: only so many images of each split, of all classes in turn; by default all.
    """

    path: str
    resolution: Annotated[Int, Field(ge=1, le=4096)] = 256
    flip: bool = False
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    on_error: Literal["fail", "skip"] = "fail"
    limit: Annotated[Int, Field(ge=2)] | None = None

    VERSION: ClassVar[int] = 1
    FOLDERS: ClassVar[tuple[str, ...]] = ("path",)
    stores: ClassVar[str] = "pixels"

    def __post_init__(self) -> None:
        if is_web(self.path):
            raise ValueError("over http only single files can be read, not folders; copy the folder to this machine")

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.resolution, self.resolution

    @property
    def num_classes(self) -> int:
        """Counted in the cached listing: no image is read."""
        return self._classes(self._headed)

    @property
    def class_names(self) -> tuple[str, ...]:
        return labelled_files.class_names(self._headed)

    @property
    def at_most(self) -> int:
        return sum(count for _, kind, count in self._headed.counts if kind in SUFFIXES)

    def notes(self) -> list[str]:
        return labelled_files.notes(self._headed)

    @functools.cached_property
    def _headed(self) -> Listing:
        """The listing without its names: one look for all that is asked of it. `open` looks again."""
        from nag.datasets.listing import read_listing

        return read_listing(self.path, names=False, folder=True)

    def _classes(self, listing: Listing) -> int:
        return labelled_files.classes_in(listing)

    def open(self, split: str) -> ImageSplit:
        """split: "train" or "held_out". Raises OSError or ValueError, naming the path, for an invalid data set."""
        from nag.datasets.listing import read_listing

        check_split(split)
        return self._open(split, read_listing(self.path, folder=True))

    def _open(self, split: str, listing: Listing) -> ImageSplit:
        import numpy as np

        from nag.noise import permutation

        layout = layout_of(listing.folders)
        if layout.held_out is not None and self.held_out:
            raise ValueError(f"{self.path} has a folder {layout.held_out}/, so held_out: {self.held_out} must go")
        files, labels = labelled_files.indexed(self.path, listing, split)
        order = permutation(0, 0, len(files))
        if layout.held_out is None:
            kept = max(1, round(self.held_out * len(order))) if self.held_out else 0
            order = order[:kept] if split == "held_out" else order[kept:]
        order = order if self.limit is None else order[_in_turn(np.asarray(labels, dtype=np.int64)[order], self.limit)]
        if split == "train" and len(order) < 2:
            raise ValueError(f"{self.path}: {len(order)} images to train on; at least 2 are needed")
        return ImageSplit(
            self, [files[i] for i in order], np.asarray(labels, dtype=np.int64)[order], self.flip and split == "train"
        )

    def smoke(self) -> ImageFolder | SyntheticImages:
        """A few of its own images where its folder is on this machine. Else synthetic ones, which need none; their seed
        depends on the method's and the folder's name.
        """
        from nag.datasets.synthetic import SyntheticImages

        small = max(4, min(self.resolution, 32))
        if not is_url(self.path) and self._has_images():
            return dataclasses.replace(self, resolution=small, limit=SMOKE_IMAGES)
        named = [type(self).__name__, *self.path.rstrip("/").split("/")[-2:]]
        seed = zlib.crc32("/".join(named).encode("utf-8", "surrogateescape"))
        return SyntheticImages(classes=self._classes_or(10), resolution=small, seed=seed)

    def _has_images(self) -> bool:
        """Whether both splits can be listed, and there are images to train on."""
        try:
            return len(self.open("train")) > 0 and len(self.open("held_out")) >= 0
        except (OSError, ValueError):
            return False

    def _classes_or(self, otherwise: int) -> int:
        try:
            return self.num_classes
        except (OSError, ValueError):
            return otherwise

    def inspect(self) -> list[str]:
        """The problems of the data set, one line each. Lists the folders again, looks for empty files and Git LFS
        pointers among all names, and decodes the first image of each class; with `on_error: skip`, the first that can
        be decoded.
        """
        from nag.datasets.listing import read_listing
        from nag.datasets.placeholders import empty, pointers

        try:
            listing = read_listing(self.path, fresh=True, folder=True)
            splits = {split: self._open(split, listing) for split in ("train", "held_out")}
        except (OSError, ValueError) as error:
            return [str(error)]
        problems = self._disagreements(splits)
        images = [each for split in splits.values() for each in split.files]
        if absent := pointers(self.path, images):
            return [*problems, absent]  # their images are not here, so there is nothing to decode
        if self.on_error == "fail" and (hollow := empty(self.path, images)):
            problems.append(hollow)
        for each in splits.values():
            problems += each.first_of_each_class()
        return problems

    def _disagreements(self, splits: dict[str, ImageSplit]) -> list[str]:
        """Differences from the official data set (nag/datasets/named.py)."""
        return []


def _in_turn(labels: np.ndarray, limit: int) -> np.ndarray:
    """Positions of the first `limit` images if each class in turn gives one, in their order."""
    import numpy as np

    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - starts  # how many images of its class come before it
    return np.sort(np.argsort(rank, kind="stable")[:limit])


class ImageSplit:
    """A split whose images several threads read from their files on demand."""

    def __init__(self, data: ImageFolder, files: list[tuple[str, int]], labels: np.ndarray, flip: bool) -> None:
        self.data, self.files, self.flip = data, files, flip  # files: name below the path, size in bytes
        self.originals = len(files)
        self.skipped: dict[str, str] = {}  # name: reason
        self._labels = labels

    def __len__(self) -> int:
        return self.originals * (2 if self.flip else 1)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, 3, R, R) float32 in [-1, 1], on 256 levels. Raises BadImage, a ValueError that names the file, or OSError
        if the disk fails.
        """
        import numpy as np

        size = self.data.resolution
        batch = np.empty((len(indices), 3, size, size), dtype=np.float32)

        def fill(row: int) -> None:
            index = int(indices[row])
            if not 0 <= index < len(self):
                raise IndexError(f"image {index} of {len(self)}")
            pixels = self._pixels(index % self.originals)
            mirrored = pixels[:, ::-1] if index >= self.originals else pixels
            np.divide(mirrored.transpose(2, 0, 1), np.float32(127.5), out=batch[row])

        for _ in reader_threads(os.getpid()).map(fill, range(len(indices))):
            pass
        batch -= 1
        return batch

    def labels(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        return self._labels[np.asarray(indices, dtype=np.int64) % max(1, self.originals)]

    def first_of_each_class(self) -> list[str]:
        """Why the first image of a class cannot be read, one line for each such class."""
        import numpy as np

        problems = []
        for i in np.unique(self._labels, return_index=True)[1]:
            try:
                self._pixels(int(i))
            except (OSError, ValueError) as error:
                problems.append(str(error))
        return problems

    def _pixels(self, i: int) -> np.ndarray:
        """(R, R, 3) uint8 of image i, or of its replacement."""
        if self.data.on_error == "fail":
            return self._read(i)
        for j in self._of_its_class(i):
            name = readable(self.files[j][0])
            if name in self.skipped:
                continue
            try:
                return self._read(j)
            except BadImage as error:
                self.skipped[name] = str(error)
        raise ValueError(f"no image of the class of {self.name(i)} can be read")

    def _of_its_class(self, i: int) -> Iterator[int]:
        """i itself, then the other images of its class in the order of the split, starting after i."""
        import numpy as np

        yield i
        alike = np.flatnonzero(self._labels == self._labels[i])
        place = int(np.searchsorted(alike, i))
        yield from (int(j) for j in (*alike[place + 1 :], *alike[:place]))

    def _read(self, i: int) -> np.ndarray:
        from nag.datasets.images import pixels
        from nag.datasets.listing import local

        name, size = self.files[i]
        with open(local(self.data.path, name, size), "rb") as file:
            return pixels(file.read(), self.data.resolution, self.name(i))

    def name(self, i: int) -> str:
        return f"{self.data.path.rstrip('/')}/{readable(self.files[i][0])}"
