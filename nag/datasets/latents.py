"""Latents of images, encoded once: `encode_shard` makes the shards, and training reads them as a `LatentSplit`.

A shard is a safetensors file with `posterior` (n, 2, 2, C, h, w), float16 or float32, and `labels` (n,) int64. The
first axes of `posterior` are the image; original or mirrored (the latents of a mirrored image are not mirrored
latents); mean or standard deviation. Together, the shards hold the originals of an image split in its order. Training
draws mean + std * eps anew each time.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from nag.autoencoders.kl import OpenAutoencoder
    from nag.datasets.dataset import Split

KINDS = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}


def encode_shard(
    split: Split,
    indices: np.ndarray,
    autoencoder: OpenAutoencoder,
    *,
    batch: int = 16,
    dtype: str = "float16",
    see: Callable[[np.ndarray, np.ndarray], None] = lambda images, labels: None,
) -> dict[str, np.ndarray]:
    """The arrays of the shard of images `indices` (originals), `batch` at a time, with prefetching.

    `see(images, labels)` gets each batch of images, float32 in [-1, 1], for other work in the same pass.
    Raises ValueError, naming the image, if a latent is not finite or too large for `dtype`.
    """
    import numpy as np
    import torch

    from nag.datasets.dataset import originals
    from nag.datasets.prefetch import prefetch

    if len(indices) and not 0 <= indices.min() <= indices.max() < originals(split):
        raise ValueError(f"images {indices.min()} to {indices.max()} of {originals(split)}; flips are made here")
    parts = [indices[first : first + batch] for first in range(0, len(indices), batch)]
    posteriors, labels = [], []
    for part, (images, y) in zip(parts, prefetch(split, parts), strict=True):
        x = torch.from_numpy(images)
        both = [torch.stack(autoencoder.encode(turned), 1) for turned in (x, x.flip(3))]  # (n, mean and std, C, h, w)
        with np.errstate(over="ignore"):  # the check below reports values that are too large
            posterior = torch.stack(both, 1).cpu().numpy().astype(dtype)
        bad = ~np.isfinite(posterior).reshape(len(part), -1).all(axis=1)
        if bad.any():
            raise ValueError(f"the latents of image {part[bad][0]} are not finite in {dtype}")
        see(images, y)
        posteriors.append(posterior)
        labels.append(y)
    return {"posterior": np.concatenate(posteriors), "labels": np.concatenate(labels)}


class LatentSplit:
    """Latents from memory-mapped local shards: only the rows of a batch are read.

    shards: paths, in order. flip: N + i is the mirrored image i, as in `image_folder`. Raises OSError, or ValueError,
    naming the file, for a shard that is not valid or does not fit the others.
    """

    def __init__(self, shards: Sequence[str], flip: bool = False) -> None:
        import numpy as np

        if not shards:
            raise ValueError("there are no shards of latents")
        mapped = [_mapped(path) for path in shards]
        self._posteriors = [arrays["posterior"] for arrays in mapped]
        self.shape = tuple(self._posteriors[0].shape[3:])
        kind = f"{self._posteriors[0].dtype} {self.shape}"
        for path, posterior in zip(shards, self._posteriors, strict=True):
            if f"{posterior.dtype} {posterior.shape[3:]}" != kind:
                raise ValueError(f"{path} has latents {posterior.dtype} {posterior.shape[3:]}, {shards[0]} has {kind}")
        self._ends = np.cumsum([len(posterior) for posterior in self._posteriors])
        self._labels = np.concatenate([arrays["labels"] for arrays in mapped])
        self.originals, self.flip = int(self._ends[-1]), flip

    def __len__(self) -> int:
        return self.originals * (2 if self.flip else 1)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """(n, C, h, w) float32: the means."""
        import numpy as np

        return self._rows(indices)[:, 0].astype(np.float32)

    def draw(self, indices: np.ndarray, seed: int, step: int, place: np.ndarray) -> np.ndarray:
        """(n, C, h, w) float32: mean + std * eps, with eps drawn from (seed, step, place in the global batch)."""
        import numpy as np

        from nag import noise

        rows = self._rows(indices)
        latents = noise.normal(seed, place, step, self.shape, purpose=noise.POSTERIOR)
        latents *= rows[:, 1]
        latents += rows[:, 0]
        return np.ascontiguousarray(latents)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        import numpy as np

        return self._labels[np.asarray(indices, dtype=np.int64) % self.originals]

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """(n, 2, C, h, w): mean and standard deviation."""
        import numpy as np

        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"latents {wanted.min()} to {wanted.max()} of {len(self)}")
        image, mirrored = wanted % self.originals, wanted // self.originals
        shard = np.searchsorted(self._ends, image, side="right")
        rows = np.empty((len(wanted), 2, *self.shape), dtype=self._posteriors[0].dtype)
        for row in range(len(wanted)):
            posterior = self._posteriors[shard[row]]
            rows[row] = posterior[image[row] - self._ends[shard[row]], mirrored[row]]
        return rows


def _mapped(path: str) -> dict[str, np.ndarray]:
    """The arrays of a shard as read-only views of the file."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header: dict[str, Any] = json.loads(file.read(min(length, 1 << 20)))
        arrays: dict[str, np.ndarray] = {}
        for name in ("posterior", "labels"):
            entry, (start, end) = header[name], header[name]["data_offsets"]
            dtype, shape = np.dtype(KINDS[entry["dtype"]]), tuple(entry["shape"])
            if end - start != dtype.itemsize * int(np.prod(shape)) or 8 + length + end > os.path.getsize(path):
                raise ValueError(f"{name} is cut short")
            arrays[name] = np.memmap(path, dtype, "r", 8 + length + start, shape)
        posterior = arrays["posterior"]
        if posterior.ndim != 6 or posterior.shape[1:3] != (2, 2) or arrays["labels"].shape != posterior.shape[:1]:
            raise ValueError(f"posterior is {posterior.shape}, labels {arrays['labels'].shape}")
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"{path} is not a valid shard of latents ({error})") from error
    return arrays
