"""Products and distances of all pairs, in tiles of bounded memory, for nearest neighbours and kernels.

Of 50,000 x 50,000 distances each tile is used once and dropped, and within one set each pair is computed once. Where
there are many pairs of float32 rows, their products are float32. Then a product of d columns is off by at most
(d + 2) u |a| |b|, u = 2^-24, in whatever order it is summed (Higham 2002, eq. 3.5), and a squared distance lies between
`lower` and `lower` + `width`. Whoever must decide more finely asks `squares_of` for that pair, from the difference of
the two rows in float64. So every neighbour and every ball is that of float64.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nag.metrics.cache import content
from nag.numerics import exact

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

ROWS, COLUMNS = 4096, 512  # of a tile, which takes 8 MB in float32, and its rows 34 MB at dimension 2,048
FEW = 2**22  # so many pairs cost little in float64
LARGEST = 1e15  # a length whose square float32 holds
SLACK = 1e-10  # relative to |a|^2 + |b|^2: far above the rounding of a squared distance, far below a real one
PAIRS = 1024  # single pairs of rows at once: 17 MB at dimension 2,048

_device = contextvars.ContextVar("device of pairs", default="cpu")


@contextlib.contextmanager
def computed_on(device: str) -> Iterator[None]:
    """Within it, metrics over pairs compute on this device; in place of Apple's, which has no float64, on the CPU."""
    token = _device.set("cpu" if device == "mps" else device)
    try:
        yield
    finally:
        _device.reset(token)


class Points:
    """(N, d) rows minus `centre`, converted a block at a time, on a device.

    Each (N,) float64: squares, |x|^2; lengths of the rows as they are, without the centre; from_origin, x . c + c . c /
    2 with the centre c, so that two rows as they are have the product x . y + from_origin of x + from_origin of y.
    """

    def __init__(self, rows: np.ndarray, centre: np.ndarray | float = 0.0, device: str = "cpu") -> None:
        import numpy as np
        import torch

        self.rows, self.centre, self.device = rows, centre, device
        self.lengths = torch.from_numpy(np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))).to(device)
        self.squares, self.from_origin = torch.empty_like(self.lengths), torch.empty_like(self.lengths)
        c = torch.from_numpy(np.array(np.broadcast_to(np.float64(centre), rows.shape[1:]))).to(device)
        for part in parts(0, len(rows), COLUMNS):
            block = self.block(part)
            self.squares[part] = block.square().sum(1)
            self.from_origin[part] = block @ c + c @ c / 2

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def content(self) -> str:
        """A hash of the rows and their centre."""
        import numpy as np

        return f"{content(self.rows)} {content(np.asarray(self.centre))} {self.device}"

    @functools.cached_property
    def is_single(self) -> bool:
        """Whether float32 holds the rows as they are, and their squares."""
        return self.rows.dtype == "float32" and (not len(self) or float(self.lengths.max()) < LARGEST)

    def block(self, part: slice | np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        """Some of the rows minus the centre; float64 by default."""
        import numpy as np
        import torch

        kind = np.float32 if dtype == torch.float32 else np.float64
        return torch.from_numpy(np.subtract(self.rows[part], self.centre, dtype=kind, casting="same_kind")).to(
            self.device
        )


class Directions(Points):
    """The rows scaled to length 1. Raises ValueError, naming the first that is all zero; `what` names the rows."""

    def __init__(self, rows: np.ndarray, what: str) -> None:
        super().__init__(rows)
        check_directions(self, what)

    def block(self, part: slice | np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        return super().block(part, dtype) / self.lengths[part, None]


def check_directions(points: Points, what: str) -> None:
    """Raise ValueError, naming the first row, if one is all zero."""
    if not points.lengths.all():
        bad = int(points.lengths.argmin())
        raise ValueError(f"{what}: row {bad} of {len(points)} is all zero: no direction")


def seen(x: np.ndarray, r: np.ndarray) -> tuple[Points, Points]:
    """Samples and reference on the device of `computed_on`, relative to the centre of the reference, where distances
    round least. The centre of float32 rows is a float32 row, so they lose nothing but the rounding of a difference.
    """
    centre = r.mean(axis=0, dtype="float64")
    if x.dtype == r.dtype == "float32":
        centre = centre.astype("float32")
    return Points(x, centre, _device.get()), Points(r, centre, _device.get())


def alike(x: np.ndarray, r: np.ndarray, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Equally many rows of both, at most `most`: random ones where there are more, the same for every N. With None, all
    rows of both.
    """
    if most is None:
        return x, r
    n = min(most, len(x), len(r))
    return drawn(x, n), drawn(r, n)


def drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """n of the rows, in their order: all, or keyed random ones."""
    import numpy as np

    from nag import noise

    return rows if n == len(rows) else rows[np.sort(noise.permutation(0, 0, len(rows), noise.HALVES)[:n])]


def parts(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def precision(a: Points, b: Points) -> torch.dtype:
    """The type of the products of all pairs."""
    import torch

    return torch.float32 if a.is_single and b.is_single and len(a) * len(b) > FEW else torch.float64


def products(a: Points, b: Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of a . b, (rows, columns), each with its rows of a and of b. If b is a, only the tiles on or above the
    diagonal: one with columns.start >= rows.stop also stands for its transpose.
    """
    import torch

    dtype, product = precision(a, b), exact(torch.mm, a.device)  # TF32 would be beyond the bounds
    for rows in parts(0, len(a), ROWS):
        left = a.block(rows, dtype)
        for columns in parts(rows.start if b is a else 0, len(b), COLUMNS):  # ROWS is a multiple of COLUMNS
            yield rows, columns, product(left, b.block(columns, dtype).T)


class Bounds:
    """Bounds of the squared distances of all pairs of a and b, from their products."""

    def __init__(self, a: Points, b: Points) -> None:
        import torch

        self.a, self.b, dtype = a, b, precision(a, b)
        # Besides the product: 14 roundings of the sums, and of what they are compared with.
        self.off = (a.rows.shape[1] + 16) * torch.finfo(dtype).eps / 2 + 2 * SLACK
        self._of_a, self._of_b = (((1 - self.off) * each.squares).to(dtype) for each in (a, b))

    def lower(self, rows: slice, columns: slice, products: Tensor) -> Tensor:
        """The least that |a - b|^2 can be, in the place of a tile, or part of one, of `products`."""
        return products.mul_(-2).add_(self._of_a[rows, None]).add_(self._of_b[columns])

    def width(self, i: Tensor, j: Tensor) -> Tensor:
        """How much more than `lower` the squared distances of row i of a and row j of b can be."""
        return 2 * self.off * (self.a.squares[i] + self.b.squares[j])


def squares_of(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:
    """|a_i - b_j|^2 of single pairs, float64, from the differences: 0 for equal rows."""
    import numpy as np
    import torch

    squares = np.empty(len(i))
    rows, columns = i.cpu().numpy(), j.cpu().numpy()
    for part in parts(0, len(rows), PAIRS):
        gap = np.subtract(a.rows[rows[part]], b.rows[columns[part]], dtype=np.float64)
        squares[part] = np.einsum("nd,nd->n", gap, gap)
    return torch.from_numpy(squares).to(a.device)


def distances_to(a: Points, b: Points, which: np.ndarray) -> np.ndarray:
    """(N,) distance of each point of a to the point of b in row `which`, from their difference: 0 for equal ones."""
    import numpy as np

    gaps = (np.subtract(a.rows[part], b.rows[which[part]], dtype=np.float64) for part in parts(0, len(a), COLUMNS))
    return np.concatenate([np.linalg.norm(gap, axis=1) for gap in gaps])
