"""Published statistics of reference images, and samples in the format of the official evaluator.

ADM's .npz files have mu, sigma (FID), mu_s, sigma_s (sFID) and often arr_0, the images; those of clean-fid, pytorch-fid
and EDM have mu and sigma. The caches of torch-fidelity, files of torch.save, have mu and sigma, or the features.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nag.whole_file import whole_file

if TYPE_CHECKING:
    import numpy as np

PAIRS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
COUNTS = ("N", "n", "count", "num_images", "num_samples")  # names of the number of images, where a file has it
ASYMMETRY = 1e-5  # of the largest value: float32 sums differ by less


class Statistics(NamedTuple):
    """Mean and covariance of one output of an extractor, float64."""

    mean: np.ndarray  # (d,)
    cov: np.ndarray  # (d, d)


class Contents(NamedTuple):
    """What a file has, from its headers. arrays: their names."""

    dims: dict[str, int]  # width by output that has moments: features, in ADM's files also spatial
    images: tuple[int, ...] | None  # (N, H, W, 3)
    size: int | None  # images behind the moments, if the file says so
    arrays: tuple[str, ...]


class _Held(NamedTuple):
    """An array of a file that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def contents(path: str) -> Contents:
    """What is in a file. No array of an .npz file is read. Raises OSError, or ValueError that names the file."""
    held = _arrays(path)
    pairs = {output: names for output, names in PAIRS.items() if {*names} <= held.keys()}
    for mean, cov in pairs.values():
        _check_shapes(path, mean, cov, held[mean], held[cov])
    images = held.get("arr_0")
    if images is not None and (images.dtype != "uint8" or len(images.shape) != 4 or images.shape[3] != 3):
        raise ValueError(f"{path}: arr_0 is {images.dtype} {images.shape}; images are uint8 (N, H, W, 3)")
    dims = {output: held[mean].shape[0] for output, (mean, _) in pairs.items()}
    return Contents(dims, images.shape if images else None, _count(held), (*held,))


def read_statistics(path: str, dims: dict[str, int] | None = None) -> dict[str, Statistics]:
    """ "features" (mu, sigma) and, where the file has them, "spatial" (mu_s, sigma_s).

    `dims`: columns of the extractor's outputs, such as {"features": 2048}. Raises OSError, or ValueError that names the
    file, for other dimensions, or if they are not a mean and a covariance.
    """
    held, result = _arrays(path), {}
    for output, (mean, cov) in PAIRS.items():
        if mean in held and cov in held:
            _check_shapes(path, mean, cov, held[mean], held[cov])
            if reason := other_dimensions(path, output, held[mean].shape[0], dims or {}):
                raise ValueError(reason)
            result[output] = _checked(path, mean, cov, held[mean].read(), held[cov].read())
    if "features" not in result:
        raise ValueError(f"{path} has no mu and sigma; it has {', '.join(held) or 'no arrays'}")
    return result


def other_dimensions(path: str, output: str, found: int, dims: dict[str, int]) -> str | None:
    """Why moments of `found` dimensions are not those of an extractor with these columns; None if they may be."""
    if dims.get(output, found) == found:
        return None
    wanted = f"the extractor's {output} {dims[output]}"
    return f"{path}: {PAIRS[output][0]} has {found} dimensions, {wanted}; it is of another extractor"


def reference_images(path: str) -> np.ndarray | None:
    """(N, H, W, 3) uint8, the images of an ADM reference; None where the file has none. Raises as `contents`."""
    return _arrays(path)["arr_0"].read() if contents(path).images else None


def _arrays(path: str) -> dict[str, _Held]:
    """The arrays of a file, by name."""
    import numpy as np

    from nag.datasets.arrays import array, headers
    from nag.locations import check_regular

    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(16)
    if _is_torch(path, start):
        from nag.fidelity_caches import read_cache

        return {
            name: _Held(held.shape, held.dtype, partial(np.asarray, held)) for name, held in read_cache(path).items()
        }
    if start.startswith(b"\x80"):
        raise ValueError(
            f"{path} is a pickle, which can run code and is never read. {_ANEW.format(os.path.basename(path))}"
        )
    return {name: _Held(each.shape, each.dtype, partial(array, path, name)) for name, each in headers(path).items()}


_ANEW = (
    "If you trust it, write its moments as .npz: python -c \"import pickle, numpy; s = pickle.load(open('{0}', 'rb')); "
    "s = s.get('fid', s); numpy.savez('{0}.npz', mu=s['mu'], sigma=s['sigma'])\""
)


def _is_torch(path: str, start: bytes) -> bool:
    from nag.weights.torch_file import LEGACY

    if start.startswith(LEGACY):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _count(held: dict[str, _Held]) -> int | None:
    for name in COUNTS:
        if name in held and not held[name].shape and held[name].dtype.kind in "iu":
            return int(held[name].read())
    return None


def _check_shapes(path: str, mean_name: str, cov_name: str, mean: _Held, cov: _Held) -> None:
    if len(mean.shape) != 1 or cov.shape != 2 * mean.shape or mean.dtype.kind + cov.dtype.kind != "ff":
        raise ValueError(
            f"{path}: {mean_name} is {mean.dtype} {mean.shape} and {cov_name} {cov.dtype} {cov.shape}; "
            "they must be a mean (d,) and a covariance (d, d)"
        )


def _checked(path: str, mean_name: str, cov_name: str, mean: np.ndarray, cov: np.ndarray) -> Statistics:
    import numpy as np

    mean, cov = np.array(mean, dtype=np.float64), np.array(cov, dtype=np.float64)
    for name, values in ((mean_name, mean), (cov_name, cov)):
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    largest = np.abs(cov).max(initial=0)
    apart = np.abs(cov - cov.T)
    if apart.max(initial=0) > ASYMMETRY * largest:
        i, j = np.unravel_index(apart.argmax(), apart.shape)
        shown = f"[{i}, {j}] is {cov[i, j]:.6g}, [{j}, {i}] is {cov[j, i]:.6g}"
        raise ValueError(f"{path}: {cov_name} is not a covariance matrix: it is not symmetric, {shown}")
    if cov.diagonal().min(initial=0) < -ASYMMETRY * largest:
        i = cov.diagonal().argmin()
        raise ValueError(f"{path}: {cov_name} is not a covariance matrix: the variance [{i}, {i}] is {cov[i, i]:.6g}")
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
