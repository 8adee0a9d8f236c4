"""Caches of torch-fidelity: files of torch.save with {"mu": ..., "sigma": ...} as NumPy arrays, or with a tensor of
features (N, d). They are read as weights only, with inert classes in place of NumPy's, so that nothing of the file is
run; arrays are then made from their bytes.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FLOATS = ("f2", "f4", "f8")
KNOWN = "a cache of torch-fidelity has mu and sigma, or features (N, d)"


class _Dtype:
    """Stands for numpy.dtype: keeps its code."""

    def __init__(self, code: Any = "", *rest: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray: keeps what its pickle says of it."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def array(self) -> np.ndarray:
        """Raises ValueError unless it is of floating-point numbers that fill its shape."""
        import numpy as np

        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in FLOATS or dtype.order not in ("<", "=", ">"):
            raise ValueError("an array is not of floating-point numbers")
        order = "<" if dtype.order == "=" else dtype.order
        values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, f"{order}{dtype.code}")
        if math.prod(shape) != values.size:
            raise ValueError(f"an array of shape {shape} has {values.size:,} numbers")
        return values.reshape(shape, order="F" if fortran else "C")


def _begun(*_: Any) -> _Array:
    """Stands for NumPy's function that begins an array."""
    return _Array()


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_begun, "numpy.core.multiarray._reconstruct"),
    (_begun, "numpy._core.multiarray._reconstruct"),
    (_Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
]


def read_cache(path: str) -> dict[str, np.ndarray]:
    """mu (d,), sigma (d, d) and, where features are given, N. Raises OSError, or ValueError that names the file."""
    stat = os.stat(path)
    return _read(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read(path: str, size: int, changed: int) -> dict[str, np.ndarray]:
    import torch

    from nag.torch_files import DAMAGED

    del size, changed
    try:
        with torch.serialization.safe_globals(STAND_INS):
            held = torch.load(path, map_location="cpu", weights_only=True)
        return _statistics(held)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, AttributeError, *DAMAGED) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        reason = "it needs code of its own" if isinstance(error, pickle.UnpicklingError) else first[:150]
        raise ValueError(f"{path} cannot be read as statistics: {reason}; {KNOWN}") from error


def _statistics(held: Any) -> dict[str, np.ndarray]:
    import numpy as np
    import torch

    from nag.metrics.moments import Moments

    if isinstance(held, torch.Tensor):
        if held.ndim != 2 or len(held) < 2 or not held.is_floating_point():
            raise ValueError(f"it is a tensor {held.dtype} {tuple(held.shape)}")
        moments = Moments(held.shape[1])
        moments.add(held.to(torch.float32).numpy() if held.dtype == torch.bfloat16 else held.numpy())
        return {"mu": moments.mean, "sigma": moments.cov, "N": np.asarray(len(held))}
    if not isinstance(held, dict) or not {"mu", "sigma"} <= held.keys():
        what = f"a table of {', '.join(map(str, held))}" if isinstance(held, dict) else f"a {type(held).__name__}"
        raise ValueError(f"it is {what[:100]}")
    arrays = {name: held[name] for name in ("mu", "sigma")}
    return {name: each.numpy() if isinstance(each, torch.Tensor) else each.array() for name, each in arrays.items()}
