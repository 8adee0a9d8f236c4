"""Statistics of reference images as others write them: all give the same moments, and what is refused says why."""

from __future__ import annotations

import io
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nag.reference_statistics import contents, read_statistics

N, D = 60, 7
FEATURES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
MU, SIGMA = FEATURES.mean(axis=0, dtype=np.float64), np.cov(FEATURES.astype(np.float64), rowvar=False)
IMAGES = np.zeros((3, 4, 4, 3), np.uint8)


def torch_saved(held: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(held, file, **options)
    return file.getvalue()


def npz(save: Callable[..., None] = np.savez, **arrays: object) -> bytes:
    file = io.BytesIO()
    save(file, **({"mu": MU, "sigma": SIGMA} | arrays))
    return file.getvalue()


HALF = {"mu": MU.astype(np.float32), "sigma": SIGMA.astype(np.float32)}
FILES: dict[str, tuple[bytes, int | None]] = {  # contents, and the number of images that they tell
    "ADM": (npz(mu_s=MU[:3], sigma_s=SIGMA[:3, :3], arr_0=IMAGES), None),
    "clean-fid": (npz(np.savez_compressed), None),
    "pytorch-fid": (npz(), None),
    "EDM": (npz(), None),
    "float32": (npz(**HALF), None),
    "N beside": (npz(N=N), N),
    "n beside, as an array": (npz(n=np.int32(N)), N),
    "in the order of Fortran": (npz(sigma=np.asfortranarray(SIGMA)), None),
    "torch-fidelity, statistics": (torch_saved({"mu": MU, "sigma": SIGMA}), None),
    "torch-fidelity, of single precision": (torch_saved(HALF), None),
    "torch-fidelity, before its version 2": (
        torch_saved({"mu": MU, "sigma": SIGMA}, _use_new_zipfile_serialization=False),
        None,
    ),
    "torch-fidelity, features": (torch_saved(torch.from_numpy(FEATURES)), N),
    "tensors": (torch_saved({"mu": torch.from_numpy(MU), "sigma": torch.from_numpy(SIGMA)}), None),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_moments(tmp_path: Path, name: str) -> None:
    data, count = FILES[name]
    path = tmp_path / "a name that says nothing"
    path.write_bytes(data)
    held = contents(str(path))
    assert (held.dims["features"], held.size) == (D, count)
    assert held.images == (IMAGES.shape if name == "ADM" else None)
    found = read_statistics(str(path), {"features": D})["features"]
    assert found.mean.dtype == found.cov.dtype == np.float64
    np.testing.assert_allclose(found.mean, MU, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.cov, SIGMA, rtol=1e-5, atol=1e-6)
    assert (found.cov == found.cov.T).all()
    with pytest.raises(ValueError, match="mu has 7 dimensions, the extractor's features 2048; it is of another extrac"):
        read_statistics(str(path), {"features": 2048})


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def _raw(pickled: bytes) -> bytes:
    """A file of torch.save whose pickle is this."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_saved(1.0))) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def changed(array: np.ndarray, *places: tuple[int, int], by: float) -> np.ndarray:
    array = array.copy()
    for place in places:
        array[place] += by
    return array


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n".encode()
OBJECTS = np.array([None], dtype=object)
REFUSED = {
    "EDM's pickle": (pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}}), "is a pickle, which can run code and is never"),
    "a pointer": (LFS, "is a pointer of Git LFS; its content was not fetched: run 'git lfs pull'"),
    "another matrix": (
        npz(sigma=SIGMA[:5, :5]),
        "mu is float64 (7,) and sigma float64 (5, 5); they must be a mean (d,)",
    ),
    "a vector": (npz(sigma=SIGMA[0]), "sigma float64 (7,); they must be a mean (d,) and a covariance (d, d)"),
    "not symmetric": (
        npz(sigma=changed(SIGMA, (2, 5), by=0.5)),
        f"sigma is not a covariance matrix: it is not symmetric, [2, 5] is {SIGMA[2, 5] + 0.5:.6g}, "
        f"[5, 2] is {SIGMA[5, 2]:.6g}",
    ),
    "a negative variance": (
        npz(sigma=changed(SIGMA, (4, 4), by=-3)),
        f"sigma is not a covariance matrix: the variance [4, 4] is {SIGMA[4, 4] - 3:.6g}",
    ),
    "not finite": (npz(mu=MU * np.nan), "mu has values that are not finite"),
    "no mu": (
        torch_saved({"mean": MU}),
        "cannot be read as statistics: it is a table of mean; a cache of torch-fidelity",
    ),
    "three axes": (
        torch_saved(torch.zeros(2, 3, 4)),
        "it is a tensor torch.float32 (2, 3, 4); a cache of torch-fidelity",
    ),
    "whole numbers": (torch_saved(torch.zeros(2, 3, dtype=torch.int64)), "it is a tensor torch.int64 (2, 3)"),
    "objects": (torch_saved({"mu": OBJECTS, "sigma": SIGMA}), "cannot be read as statistics: "),
    "not symmetric in a cache": (
        torch_saved({"mu": MU, "sigma": changed(SIGMA, (2, 5), by=0.5)}),
        "sigma is not a covariance matrix: it is not symmetric, [2, 5]",
    ),
    "other dimensions in a cache": (torch_saved({"mu": MU, "sigma": SIGMA[:5]}), "sigma float64 (5, 7); they must be"),
    "a cut cache": (torch_saved({"mu": MU, "sigma": SIGMA})[:-300], "is not a valid .npz file"),
    "nothing": (b"", "is not a valid .npz file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(tmp_path: Path, name: str) -> None:
    data, words = REFUSED[name]
    (tmp_path / "reference").write_bytes(data)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/reference[ :].*{re.escape(words)}"):
        read_statistics(str(tmp_path / "reference"))


@pytest.mark.parametrize("kind", ["pickle", "cache", "cache of a table", "cache of the old format"])
def test_nothing_of_a_file_is_run(tmp_path: Path, kind: str) -> None:
    trap = Trap(tmp_path / "sprung")
    (tmp_path / "reference").write_bytes(
        {
            "pickle": pickle.dumps(trap),
            "cache": torch_saved(trap),
            "cache of a table": torch_saved({"mu": trap, "sigma": SIGMA}),
            "cache of the old format": torch_saved(trap, _use_new_zipfile_serialization=False),
        }[kind]
    )
    with pytest.raises(ValueError, match=r"is a pickle|it needs code of its own"):
        read_statistics(str(tmp_path / "reference"))
    assert not (tmp_path / "sprung").exists()


def test_the_command_that_writes_a_pickle_anew_works(tmp_path: Path) -> None:
    file = tmp_path / "imagenet-64x64.pkl"
    file.write_bytes(pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}}))
    with pytest.raises(ValueError, match=r"as \.npz: python -c") as caught:
        contents(str(file))
    command = shlex.split(str(caught.value).partition("as .npz: ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert (read_statistics(f"{file}.npz")["features"].mean == MU).all()


@pytest.mark.parametrize("shape", [(2**40,), (-1,), ("x",), None])
def test_an_array_that_lies_about_its_shape_takes_no_memory(tmp_path: Path, shape: object) -> None:
    data = pickle.dumps({"mu": MU, "sigma": SIGMA}, 2)
    told = b"K\x07\x85"  # (7,)
    assert told in data
    hostile = data.replace(told, pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b""), 1)
    (tmp_path / "reference").write_bytes(_raw(hostile))
    with pytest.raises(ValueError, match="cannot be read as statistics"):
        read_statistics(str(tmp_path / "reference"))
