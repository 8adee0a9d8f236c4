"""Resize batches of images, on any device, as Pillow, TensorFlow 1 or PyTorch resizes a single image.

A resize is linear and separable: two banded matrices, one for rows and one for columns. They are computed in float64
and multiplied in float32, which agrees with Pillow on float32 channels within 0.001 of 255. On 8-bit images the result
equals Pillow's exactly: both passes round as Pillow does (horizontal first, as in all of Pillow before 13).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Kind = Literal["bicubic", "bilinear", "tensorflow", "pytorch", "pytorch_bicubic"]
PILLOW = ("bicubic", "bilinear")
# bicubic, bilinear: Pillow's filters, widened when the image shrinks (antialiasing). The others skip pixels then.
# tensorflow: tf.image.resize_bilinear of TensorFlow 1, which ignores that pixel centres are half a pixel in.
# pytorch, pytorch_bicubic: torch.nn.functional.interpolate, bilinear and bicubic, align_corners=False.

BAND = 32  # rows of a matrix in one product
PILLOW_BITS = 22  # fractional bits of Pillow's fixed-point weights for 8-bit images
GROUP = 4  # images resized at once, so few that the first product stays in the cache


class Band(NamedTuple):
    """Rows `first` to `last` of a matrix, which are 0 outside columns `low` to `high`."""

    first: int
    last: int
    low: int
    high: int
    weights: Tensor  # (last - first, high - low)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` are uint8 (N, 1 or 3, H, W)."""
    import torch

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images must be uint8 (N, 1 or 3, H, W); got {images.dtype} {tuple(images.shape)}")


def as_rgb(images: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) to (N, 3, H, W): a grey image becomes three equal channels. No copy is made."""
    check_images(images)
    return images.expand(-1, 3, -1, -1)


def resize(images: Tensor, size: int, kind: Kind, *, quantised: bool = False) -> Tensor:
    """uint8 (N, 1 or 3, H, W) in 0 .. 255 to float32 (N, 3, size, size), clipped to [0, 255] (pytorch_bicubic is not,
    as PyTorch's is not). The whole image is used, so one that is not square is stretched.

    quantised: round to whole numbers after each of the two passes, as Pillow does for 8-bit images (the sums are exact
    in float64); else as Pillow does for float32 channels. Raises ValueError for images of another type or shape.
    """
    import torch

    images = as_rgb(images)
    n, _, height, width = images.shape
    grey = images.stride(1) == 0
    channels = 1 if grey else 3
    across, down = (_bands(kind, length, size, quantised, str(images.device)) for length in (width, height))
    resized = torch.empty(n, channels, size, size, device=images.device)
    for start in range(0, n, GROUP):
        x = images[start : start + GROUP, :channels].to(across[0].weights.dtype).flatten(0, 1)  # (n C, H, W)
        wide = x.new_empty(*x.shape[:2], size)
        for first, last, low, high, weights in across:
            torch.mm(x.flatten(0, 1)[:, low:high], weights.T, out=wide.flatten(0, 1)[:, first:last])
        if quantised:
            _quantise(wide)
        out = resized[start : start + GROUP].flatten(0, 1)
        for first, last, low, high, weights in down:
            rows = weights @ wide[:, low:high]
            out[:, first:last] = _quantise(rows) if quantised else rows
    return (resized if kind == "pytorch_bicubic" else resized.clamp_(0, 255)).expand(-1, 3, -1, -1)


def _quantise(x: Tensor) -> Tensor:
    """Round half up and clip to 0 .. 255, in place, as Pillow's fixed-point arithmetic does."""
    return x.add_(0.5).floor_().clamp_(0, 255)


@functools.lru_cache(maxsize=32)
def _bands(kind: Kind, length: int, size: int, quantised: bool, device: str) -> tuple[Band, ...]:
    import numpy as np
    import torch

    matrix = _matrix(kind, length, size)
    if quantised:
        matrix = np.floor(matrix * 2**PILLOW_BITS + 0.5) / 2**PILLOW_BITS
    dtype = torch.float64 if quantised else torch.float32
    bands = []
    for first in range(0, size, BAND):
        rows = matrix[first : first + BAND]
        used = np.flatnonzero(rows.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        weights = torch.from_numpy(rows[:, low:high]).to(device, dtype).contiguous()
        bands.append(Band(first, first + len(rows), low, high, weights))
    return tuple(bands)


def _matrix(kind: Kind, length: int, size: int) -> np.ndarray:
    """(size, length) float64: output pixel i is the sum over k of matrix[i, k] times input pixel k; rows sum to 1."""
    import numpy as np

    scale = length / size
    if kind in PILLOW:
        centers = (np.arange(size) + 0.5) * scale
        distance = np.abs(np.arange(length) + 0.5 - centers[:, None]) / max(scale, 1.0)
        weights = _cubic(distance) if kind == "bicubic" else np.clip(1 - distance, 0, None)
        return weights / weights.sum(axis=1, keepdims=True)
    place = np.arange(size) * scale if kind == "tensorflow" else (np.arange(size) + 0.5) * scale - 0.5
    if kind == "pytorch_bicubic":
        return _four_pixels(place, length)
    place = place.clip(0, length - 1)
    below = place.astype(int)
    weights = np.zeros((size, length))
    np.add.at(weights, (np.arange(size), below), 1 - (place - below))
    np.add.at(weights, (np.arange(size), (below + 1).clip(max=length - 1)), place - below)
    return weights


def _four_pixels(place: np.ndarray, length: int) -> np.ndarray:
    """The matrix that reads at `place` from the four nearest pixels, with a = -3/4; beyond the edge, its last pixel."""
    import numpy as np

    weights = np.zeros((len(place), length))
    for offset in (-1, 0, 1, 2):
        pixel = np.floor(place) + offset
        columns = pixel.clip(0, length - 1).astype(int)
        np.add.at(weights, (np.arange(len(place)), columns), _cubic(np.abs(place - pixel), -0.75))
    return weights


def _cubic(d: Any, a: float = -0.5) -> Any:
    """Keys' cubic convolution (1981, eq. 15 at a = -1/2), of distances d >= 0 in pixels."""
    import numpy as np

    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))
