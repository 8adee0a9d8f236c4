"""What is computed of a reference, kept for the next cell that is scored against it in this process, and of a cell for
its next metric.

It is found by the content of the arrays that it was made of, so an array that was changed, or read again, is no trap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

AT_MOST = 12  # all that the metrics of one cell keep; the largest, a covariance's factor, is 34 MB at dimension 2,048
_kept: dict[str, Any] = {}


def kept(what: str, make: Callable[[], T], *arrays: np.ndarray) -> T:
    """`make()`, or what it gave when the same was asked of the same arrays, if that is among the last few.

    what: all that the result depends on besides the arrays.
    """
    import numpy as np

    hashed = hashlib.blake2b(what.encode(), digest_size=16)
    for array in arrays:
        hashed.update(f"{array.dtype.str} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    key = hashed.hexdigest()
    value = _kept.pop(key) if key in _kept else make()
    _kept[key] = value
    while len(_kept) > AT_MOST:
        _kept.pop(next(iter(_kept)))
    return value
