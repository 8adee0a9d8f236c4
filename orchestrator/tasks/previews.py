"""Previews: the first samples of a stream as small pictures, decoded if they are latents. They are in block 0 of its
features, so they outlive the samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.errors import CorruptFile, MissingFile
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import block_name

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.store.store import Store

PREVIEW = "preview"  # its name among the outputs of the extractor
COUNT = 64  # at most; of block 0 only
SIDE = 128  # pixels at most; larger pictures are averaged by a whole factor


class NoPicture(ValueError):
    """These samples are not images; the message says what they are."""


def of(samples: np.ndarray) -> dict[str, np.ndarray]:
    """{PREVIEW: pictures} of samples (N, C, H, W): uint8, N at most COUNT, sides at most SIDE; {} for latents."""
    return {PREVIEW: smaller(samples[:COUNT])} if are_images(samples) else {}


def _arrays(store: Store, name: str) -> dict[str, np.ndarray]:
    try:
        arrays, _ = unpack(store.read(name))
    except MissingFile:
        raise
    except CorruptFile as error:  # a folder, or not readable for this user
        raise ValueError(f"{error}") from error
    if "labels" not in arrays:
        raise ValueError("a block without labels")
    return arrays


def read(store: Store, stream: str, extracts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, C, H, W) uint8, C 1 or 3, and their labels (N,), of a stream with these extract tasks.

    Raises FileNotFoundError if neither features nor samples are kept, NoPicture, and ValueError for a damaged block.
    """
    for extract in extracts:
        try:
            arrays = _arrays(store, block_name(extract, 0))
        except FileNotFoundError:
            continue
        if PREVIEW in arrays:
            return arrays[PREVIEW], arrays["labels"][:COUNT]
    arrays = _arrays(store, block_name(stream, 0))
    if "samples" not in arrays:
        raise ValueError("a block without samples")
    if preview := of(arrays["samples"]):
        return preview[PREVIEW], arrays["labels"][:COUNT]
    what = "latents" if arrays["samples"].dtype == "float16" else "samples"
    raise NoPicture(f"{what} of shape {arrays['samples'].shape[1:]}")


def are_images(samples: np.ndarray) -> bool:
    return samples.dtype == "uint8" and samples.ndim == 4 and samples.shape[1] in (1, 3)


def smaller(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images (N, C, H, W) uint8, averaged by a whole factor so that sides are at most `side`."""
    import numpy as np

    factor = -(-max(images.shape[2:]) // side)
    if factor == 1:
        return images
    height, width = (length // factor for length in images.shape[2:])
    cut = images[:, :, : height * factor, : width * factor]
    blocks = cut.reshape(*images.shape[:2], height, factor, width, factor)
    return np.round(blocks.mean(axis=(3, 5))).astype(np.uint8)
