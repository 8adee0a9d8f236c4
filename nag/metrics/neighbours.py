"""Products and distances of all pairs, in tiles of bounded memory, for nearest neighbours and kernels.

Everything is float64. Of 50,000 x 50,000 distances each tile is used once and dropped, and within one set each pair is
computed once. A distance from |a|^2 + |b|^2 - 2 a.b is only as exact as the rounding of that sum, so points are taken
relative to the centre of the reference, and "within" allows for SLACK.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nag.metrics.cache import content

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ROWS, COLUMNS = 4096, 512  # of a tile, which takes 17 MB, and its rows 67 MB at dimension 2,048
SLACK = 1e-10  # relative to |a|^2 + |b|^2: far above the rounding of a squared distance, far below a real one


class Points:
    """(N, d) rows minus `centre`, converted to float64 a block at a time, on a device.

    Each (N,): squares, |x|^2; lengths of the rows as they are, without the centre; from_origin, x . c + c . c / 2 with
    the centre c, so that two rows as they are have the product x . y + from_origin of x + from_origin of y.
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

    def block(self, part: slice) -> Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.subtract(self.rows[part], self.centre, dtype=np.float64)).to(self.device)


class Directions(Points):
    """The rows scaled to length 1. Raises ValueError, naming the first that is all zero; `what` names the rows."""

    def __init__(self, rows: np.ndarray, what: str) -> None:
        super().__init__(rows)
        check_directions(self, what)

    def block(self, part: slice) -> Tensor:
        return super().block(part) / self.lengths[part, None]


def check_directions(points: Points, what: str) -> None:
    """Raise ValueError, naming the first row, if one is all zero."""
    if not points.lengths.all():
        bad = int(points.lengths.argmin())
        raise ValueError(f"{what}: row {bad} of {len(points)} is all zero: no direction")


def seen(x: np.ndarray, r: np.ndarray) -> tuple[Points, Points]:
    """Samples and reference relative to the centre of the reference, where distances round least."""
    centre = r.mean(axis=0, dtype="float64")
    return Points(x, centre), Points(r, centre)


def parts(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def products(a: Points, b: Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of a . b, (rows, columns), each with its rows of a and of b. If b is a, only the tiles on or above the
    diagonal: one with columns.start >= rows.stop also stands for its transpose.
    """
    for rows in parts(0, len(a), ROWS):
        left = a.block(rows)
        for columns in parts(rows.start if b is a else 0, len(b), COLUMNS):  # ROWS is a multiple of COLUMNS
            yield rows, columns, left @ b.block(columns).T


def squared(a: Points, b: Points, rows: slice, columns: slice, products: Tensor) -> Tensor:
    """|a - b|^2 in the place of a tile, or part of one, of `products`."""
    return products.mul_(-2).add_(a.squares[rows, None]).add_(b.squares[columns])


def distances_to(a: Points, b: Points, which: np.ndarray) -> np.ndarray:
    """(N,) distance of each point of a to the point of b in row `which`, from their difference: 0 for equal ones."""
    import numpy as np

    gaps = (np.subtract(a.rows[part], b.rows[which[part]], dtype=np.float64) for part in parts(0, len(a), COLUMNS))
    return np.concatenate([np.linalg.norm(gap, axis=1) for gap in gaps])
