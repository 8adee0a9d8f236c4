"""Latents that others have saved: `{name: latents, path: FOLDER or FILE, scale: 0.18215}`. The layouts that are known
are in nag/datasets/latent_layouts.py; `check` tells which one was found.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nag.datasets import labelled_files
from nag.datasets.dataset import Dataset, check_split
from nag.datasets.latent_layouts import STATISTICS
from nag.datasets.prefetch import reader_threads
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.latent_layouts import Stored
    from nag.datasets.listing import Listing

PerChannel = float | tuple[float, ...]
LOGVAR = (-30.0, 20.0)  # to which AutoencoderKL of diffusers clips log-variances
PLAIN = 4  # channels; with more, an array may be samples or moments


@method
class LatentFiles(Dataset):
    """Latents z of images; a network is trained on (z - shift) * scale.

    path: a folder, or an .npz file; or an fsspec URL of one.
    scale, shift: one number, or one for each channel. shift is in the unit of z, as in diffusers. Where a code adds
        its bias after it has scaled, shift is -bias / scale. scale is required unless there is a latents_stats.pt.
    statistics: use: with a latents_stats.pt (LightningDiT), z is normalised by its mean and standard deviation first.
    holds: samples (C, H, W); or moments (2C, H, W): mean and standard deviation (REPA) or mean and log-variance. It is
        required where neither names nor layout tell. Of moments, training draws a sample anew each time.
    flip: the training split also has the latents of mirrored images: N + i is the mirrored image i.
    held_out: this share is kept out of the training split, if there is no held-out folder.
    classes: their number, if not all occur; by default one more than the largest label.
    """

    path: str
    scale: PerChannel | None = None
    shift: PerChannel = 0.0
    holds: Literal["samples", "mean_std", "mean_logvar"] | None = None
    statistics: Literal["use", "ignore"] = "use"
    flip: bool = False
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    classes: Annotated[Int, Field(ge=1, le=10_000_000)] | None = None

    VERSION: ClassVar[int] = 1
    FOLDERS: ClassVar[tuple[str, ...]] = ("path",)
    stores: ClassVar[str] = "latents"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a state, from the header of one file."""
        channels, height, width = self._stored("train").shape
        channels = channels if self.held == "samples" else channels // 2
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if isinstance(value, tuple) and len(value) != channels:
                raise ValueError(f"{self.path}: {name} has {len(value)} values for {channels} channels")
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """One more than the largest label, or as many as the folders or a dataset.json have, or `classes`."""
        found = self._stored("train")
        seen = int(found.labels.max()) + 1 if len(found.labels) else 1
        seen = max(seen, labelled_files.classes_in(self._listing) if found.by_folder else 1)
        if self.classes is not None and self.classes < seen:
            raise ValueError(f"{self.path} has {seen:,} classes, so classes: {self.classes} is too small")
        return self.classes or seen

    @property
    def class_names(self) -> tuple[str, ...]:
        return labelled_files.class_names(self._listing) if self._stored("train").by_folder else ()

    @property
    def at_most(self) -> int:
        splits = ("train", "held_out") if self._stored("train").by_folder else ("train",)
        return sum(len(self._stored(split).labels) for split in splits)

    @property
    def held(self) -> str:
        """What the arrays hold. Raises ValueError if nobody says so and it cannot be told."""
        found = self._stored("train")
        channels = found.shape[0]
        held = self.holds or found.holds or ("samples" if channels <= PLAIN else None)
        if held is None:
            raise ValueError(
                f"{self.path} has arrays {list(found.shape)}: write holds: samples for {channels} channels or, if they "
                f"are moments of {channels // 2}, holds: mean_std or mean_logvar"
            )
        if held != "samples" and channels % 2:
            raise ValueError(f"{self.path} has arrays {list(found.shape)}; an odd number of channels cannot be {held}")
        return held

    def notes(self) -> list[str]:
        """The layout that was found, and which files are left out."""
        found = self._stored("train")
        words = {
            "samples": "samples",
            "mean_std": "mean and standard deviation",
            "mean_logvar": "mean and log-variance",
        }
        by = f", normalised by {STATISTICS}" if self._is_normalised(found) else ""
        lines = [f"{found.layout}: {len(found.labels):,} latents {list(found.shape)}, {words[self.held]}{by}"]
        return lines + (labelled_files.notes(self._listing, labelled_files.LATENTS) if found.by_folder else [])

    def inspect(self) -> list[str]:
        """The problems of the data set, one line each. Looks for empty files and Git LFS pointers among all names, and
        reads the first latent of each class.
        """
        import numpy as np

        from nag.datasets.listing import read_listing
        from nag.datasets.placeholders import empty, pointers

        try:
            listing = read_listing(self.path, fresh=True)
            files = list(zip(listing.names, listing.sizes, strict=True))
            if problem := pointers(self.path, files) or empty(self.path, files, "files"):
                return [problem]
            for split in (self.open("train"), self.open("held_out")):
                for i in np.unique(split.labels(np.arange(split.originals)), return_index=True)[1]:
                    split.draw(np.array([i]), 0, 0, np.array([0]))
        except (OSError, ValueError) as error:
            return [str(error)]
        return []

    def open(self, split: str) -> LatentFilesSplit:
        """split: "train" or "held_out". Raises OSError or ValueError, naming the path, for an invalid data set."""
        from nag.datasets.folder_layout import layout_of
        from nag.noise import permutation

        check_split(split)
        found = self._stored(split)
        apart = layout_of(self._listing.folders).held_out if found.by_folder else None
        if apart is not None and self.held_out:
            raise ValueError(f"{self.path} has a folder {apart}/, so held_out: {self.held_out} must go")
        order = permutation(0, 0, len(found.labels))
        if apart is None:
            kept = max(1, round(self.held_out * len(order))) if self.held_out else 0
            order = order[:kept] if split == "held_out" else order[kept:]
        if split == "train" and len(order) < 2:
            raise ValueError(f"{self.path}: {len(order)} latents to train on; at least 2 are needed")
        return LatentFilesSplit(self, found, order, self.flip and split == "train")

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """shift and scale of all that is done to z, (z - shift) * scale: float32, (1, 1, 1) or (C, 1, 1)."""
        import numpy as np

        from nag.datasets.latent_layouts import statistics_in
        from nag.datasets.listing import read_listing

        shift, scale = np.asarray(self.shift, np.float64), np.asarray(1.0 if self.scale is None else self.scale)
        if self._is_normalised(self._stored("train")):
            mean, std = statistics_in(self.path, read_listing(self.path))
            shift, scale = mean + std * shift, scale / std
            if len(mean) != self.shape[0]:
                raise ValueError(
                    f"{self.path}/{STATISTICS} is of {len(mean)} channels, the latents have {self.shape[0]}"
                )
        return shift.astype(np.float32).reshape(-1, 1, 1), scale.astype(np.float32).reshape(-1, 1, 1)

    @property
    def _listing(self) -> Listing:
        """The cached listing, without the names of files."""
        from nag.datasets.listing import read_listing

        return read_listing(self.path, names=False, compute=False)

    def _stored(self, split: str) -> Stored:
        """The latents of a split, checked against the fields."""
        found = _opened(self.path, self._listing.checksum, split)
        if self.flip and not found.mirrored:
            raise ValueError(f"{self.path} has no latents of mirrored images (it is {found.layout}); remove flip")
        if self.scale is None and not self._is_normalised(found):
            fix = "write scale: 1 if the latents are scaled already, else the factor of their autoencoder, as 0.18215"
            raise ValueError(f"{self.path} does not say how its latents are scaled; {fix}")
        return found

    def _is_normalised(self, found: Stored) -> bool:
        return self.statistics == "use" and found.statistics


@functools.lru_cache(maxsize=4)
def _opened(path: str, checksum: str, split: str) -> Stored:
    """The latents of a split; `checksum` is that of the path's listing."""
    from nag.datasets.latent_layouts import stored
    from nag.datasets.listing import read_listing

    del checksum
    found = stored(path, read_listing(path, compute=False), split)
    if len(found.labels) and found.labels.min() < 0:
        raise ValueError(f"{path}: labels go down to {found.labels.min()}; classes are numbered from 0")
    return found


class LatentFilesSplit:
    """A split whose latents several threads read on demand. order: which of the stored ones it has."""

    def __init__(self, data: LatentFiles, found: Stored, order: np.ndarray, flip: bool) -> None:
        self.data, self.flip = data, flip
        self.originals = len(order)
        self._found, self._order, self._labels, self._held = found, order, found.labels[order], data.held
        self._shift, self._scale = data.affine()

    def __len__(self) -> int:
        return self.originals * (2 if self.flip else 1)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, C, H, W) float32: the states of samples, or of the means. Raises ValueError, naming the file, for values
        that are not finite.
        """
        rows = self._rows(indices)
        return self._scaled(rows if self._held == "samples" else rows[:, : rows.shape[1] // 2])

    def draw(self, indices: np.ndarray, seed: int, step: int, place: np.ndarray) -> np.ndarray:
        """(n, C, H, W) float32: the states of mean + std * eps, with eps drawn from (seed, step, place in the global
        batch), as in `LatentSplit`; of samples as they are.
        """
        import numpy as np

        from nag import noise

        if self._held == "samples":
            return self.images(indices)
        rows = self._rows(indices)
        mean, spread = np.split(rows, 2, axis=1)
        std = np.exp(spread.clip(*LOGVAR) / 2) if self._held == "mean_logvar" else spread
        eps = noise.normal(seed, place, step, mean.shape[1:], purpose=noise.POSTERIOR)
        return self._scaled(mean + std * eps)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        return self._labels[np.asarray(indices, dtype=np.int64) % max(1, self.originals)]

    def name(self, i: int) -> str:
        return self._found.name(int(self._order[i % self.originals]))

    def _scaled(self, z: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.ascontiguousarray((z - self._shift) * self._scale, dtype=np.float32)

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """(n, C or 2C, H, W) float32, as they are stored."""
        import numpy as np

        rows = np.empty((len(indices), *self._found.shape), np.float32)

        def fill(row: int) -> None:
            index = int(indices[row])
            if not 0 <= index < len(self):
                raise IndexError(f"latent {index} of {len(self)}")
            rows[row] = self._found.read(int(self._order[index % self.originals]), index >= self.originals)
            if not np.isfinite(rows[row]).all():
                raise ValueError(f"{self.name(index)} has values that are not finite")
            if self._held == "mean_std" and rows[row, len(rows[row]) // 2 :].min() < 0:
                fix = "if its second half is a log-variance, write holds: mean_logvar"
                raise ValueError(f"{self.name(index)} has negative standard deviations; {fix}")

        for _ in reader_threads(os.getpid()).map(fill, range(len(indices))):
            pass
        return rows
