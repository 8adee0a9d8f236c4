"""Caches of torch-fidelity: files of torch.save with {"mu": ..., "sigma": ...} as NumPy arrays, or with a tensor of
features (N, d). They are read as data, so no code in the file is run; arrays are then made from their bytes.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.weights.pickled import Inert
from nag.weights.stored import Stored

if TYPE_CHECKING:
    import numpy as np

FLOATS = ("f2", "f4", "f8")
KNOWN = "a cache of torch-fidelity has mu and sigma, or features (N, d)"


def read_cache(path: str) -> dict[str, np.ndarray]:
    """mu (d,), sigma (d, d) and, where features are given, N. Raises OSError, or ValueError that names the file."""
    stat = os.stat(path)
    return _read(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read(path: str, size: int, changed: int) -> dict[str, np.ndarray]:
    from nag.weights.torch_file import read_torch

    del size, changed
    try:
        return _statistics(read_torch(Path(path)))
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as statistics: {first[:150]}; {KNOWN}") from error


def _statistics(held: Any) -> dict[str, np.ndarray]:
    import numpy as np

    from nag.metrics.moments import Moments

    if isinstance(held, Stored):
        if len(held.shape) != 2 or held.shape[0] < 2 or "float" not in held.dtype:
            raise ValueError(f"it is a tensor torch.{held.dtype} {held.shape}")
        moments, features = Moments(held.shape[1]), held.read()
        moments.add((features.float() if held.dtype == "bfloat16" else features).numpy())
        return {"mu": moments.mean, "sigma": moments.cov, "N": np.asarray(len(features))}
    if isinstance(held, Inert):
        raise ValueError(f"it needs code of its own, {held.name}")
    if not isinstance(held, dict) or not {"mu", "sigma"} <= held.keys():
        what = f"a table of {', '.join(map(str, held))}" if isinstance(held, dict) else f"a {type(held).__name__}"
        raise ValueError(f"it is {what[:100]}")
    return {name: _array(held[name]) for name in ("mu", "sigma")}


def _array(held: Any) -> np.ndarray:
    """A tensor or a pickled NumPy array. Raises ValueError unless its floating-point numbers fill its shape."""
    import numpy as np

    if isinstance(held, Stored):
        return np.asarray(held.read().double().numpy())
    if not isinstance(held, Inert):
        raise ValueError(f"mu and sigma must be arrays, not {type(held).__name__}")
    if held.name.rpartition(".")[2] != "_reconstruct" or not isinstance(held.state, tuple):
        raise ValueError(f"it needs code of its own, {held.name}")
    _, shape, dtype, fortran, data = held.state
    if not isinstance(dtype, Inert) or dtype.name != "numpy.dtype" or dtype.arguments[0] not in FLOATS:
        raise ValueError("an array is not of floating-point numbers")
    if isinstance(data, Inert) and data.name == "_codecs.encode":  # how older pickle protocols store bytes
        data = data.arguments[0].encode("latin1")
    order = ">" if dtype.state and dtype.state[1] == ">" else "<"
    values = np.frombuffer(data, f"{order}{dtype.arguments[0]}")
    if math.prod(shape) != values.size:
        raise ValueError(f"an array of shape {shape} has {values.size:,} numbers")
    return values.reshape(shape, order="F" if fortran else "C")
