"""A cache of intermediate results in this process: a reference's for the next cell, a cell's for its next metric.

Keys have hashes of the content of the input arrays, so arrays may change or be read again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

# Beyond this number the least recently used go. One cell asks for 7 with an extractor, FID, precision and recall. If
# fewer are kept, what is of a reference has gone before the next cell. The largest, the factor of a covariance, has
# 34 MB at dimension 2,048.
AT_MOST = 48
_kept: dict[str, Any] = {}


def kept(what: str, make: Callable[[], T], *arrays: np.ndarray, last: bool = False) -> T:
    """`make()`, or its cached result for the same `what` and arrays.

    what: everything that the result depends on, apart from the arrays. last: keep only the last of this `what`, as for
    large results that only the next metrics of the same cell ask for.
    """
    key = " ".join([what, *map(content, arrays)])
    value = _kept.pop(key) if key in _kept else make()
    if last:
        for other in [other for other in _kept if other.startswith(f"{what} ")]:
            del _kept[other]
    _kept[key] = value
    while len(_kept) > AT_MOST:
        _kept.pop(next(iter(_kept)))
    return value


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Within it results are cached apart from the others and dropped at its end: nobody asks again for those of a
    single class.
    """
    others = dict(_kept)
    _kept.clear()
    try:
        yield
    finally:
        _kept.clear()
        _kept.update(others)


def cached(what: str) -> Any:
    """The result that `kept` has for `what` and no arrays, or None."""
    return _kept.get(what)


def content(array: np.ndarray) -> str:
    """A hash of an array's type, shape and values."""
    import numpy as np

    hashed = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()
