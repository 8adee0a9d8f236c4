"""Published statistics of reference images, and samples in the format of the official evaluator.

ADM's .npz files have mu, sigma (FID), mu_s, sigma_s (sFID) and often arr_0, the images; clean-fid's have mu and sigma.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nag.whole_file import whole_file

if TYPE_CHECKING:
    import numpy as np

PAIRS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
ASYMMETRY = 1e-5  # of the largest value: float32 sums differ by less


class Statistics(NamedTuple):
    """Mean and covariance of one output of an extractor, float64."""

    mean: np.ndarray  # (d,)
    cov: np.ndarray  # (d, d)


def read_statistics(path: str, dims: dict[str, int] | None = None) -> dict[str, Statistics]:
    """ "features" (mu, sigma) and, where the file has them, "spatial" (mu_s, sigma_s).

    `dims`: columns of the extractor's outputs, such as {"features": 2048}. Raises OSError, or ValueError that names the
    file, for other dimensions, or if they are not a mean and a covariance.
    """
    from nag.datasets.arrays import array, headers

    arrays = headers(path)
    result = {}
    for output, (mean, cov) in PAIRS.items():
        if mean in arrays and cov in arrays:
            result[output] = _checked(path, mean, cov, array(path, mean), array(path, cov))
            wanted = (dims or {}).get(output)
            if wanted is not None and wanted != len(result[output].mean):
                raise ValueError(
                    f"{path}: {mean} has {len(result[output].mean)} dimensions, the extractor's {output} {wanted}; "
                    "it is of another extractor"
                )
    if "features" not in result:
        raise ValueError(f"{path} has no mu and sigma; it has {', '.join(arrays) or 'no arrays'}")
    return result


def reference_images(path: str) -> np.ndarray | None:
    """(N, H, W, 3) uint8, the images of an ADM reference; None where the file has none. Raises as `read_statistics`."""
    from nag.datasets.arrays import array, headers

    images = headers(path).get("arr_0")
    if images is None:
        return None
    if images.dtype != "uint8" or len(images.shape) != 4 or images.shape[3] != 3:
        raise ValueError(f"{path}: arr_0 is {images.dtype} {images.shape}; images are uint8 (N, H, W, 3)")
    return array(path, "arr_0")


def _checked(path: str, mean_name: str, cov_name: str, mean: np.ndarray, cov: np.ndarray) -> Statistics:
    import numpy as np

    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or mean.dtype.kind + cov.dtype.kind != "ff":
        raise ValueError(
            f"{path}: {mean_name} is {mean.dtype} {mean.shape} and {cov_name} {cov.dtype} {cov.shape}; "
            "they must be a mean (d,) and a covariance (d, d)"
        )
    mean, cov = np.array(mean, dtype=np.float64), np.array(cov, dtype=np.float64)
    for name, values in ((mean_name, mean), (cov_name, cov)):
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    largest = np.abs(cov).max(initial=0)
    if np.abs(cov - cov.T).max(initial=0) > ASYMMETRY * largest or cov.diagonal().min(initial=0) < -ASYMMETRY * largest:
        raise ValueError(f"{path}: {cov_name} is not a covariance matrix: not symmetric, or a variance is negative")
    return Statistics(mean, (cov + cov.T) / 2)


def write_adm(path: str, images: Iterable[np.ndarray], count: int, labels: np.ndarray | None = None) -> None:
    """Images as `arr_0` (and labels as `arr_1`) of an .npz file, for ADM's evaluator, without holding them all.

    images: parts of (n, H, W, C) uint8, `count` images in all; labels: (count,) whole numbers. The file appears when it
    is whole, uncompressed, and its bytes depend on the numbers alone. Raises ValueError where the parts do not fit.
    """
    import numpy as np

    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        raise ValueError(f"labels must be whole numbers ({count},), got {labels.dtype} {labels.shape}")
    with whole_file(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _write_images(archive, images, count)
        if labels is not None:
            with archive.open(_member("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(labels, dtype=np.int64), allow_pickle=False)


def _write_images(archive: zipfile.ZipFile, images: Iterable[np.ndarray], count: int) -> None:
    import numpy as np

    written, shape = 0, None
    with archive.open(_member("arr_0.npy"), "w", force_zip64=True) as member:
        for part in images:
            if part.dtype != np.uint8 or part.ndim != 4 or (shape is not None and part.shape[1:] != shape):
                raise ValueError(f"images must be uint8 (n, H, W, C) of one size, got {part.dtype} {part.shape}")
            if shape is None:
                shape = part.shape[1:]
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(member, header)
            written += len(part)
            if written <= count:
                member.write(np.ascontiguousarray(part).data)
    if written != count or shape is None:
        raise ValueError(f"{count} images were announced, {written} came")


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
