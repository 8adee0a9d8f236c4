"""Products and distances of all pairs, in tiles: what nearest neighbours and kernels are made of, in bounded memory.

Everything is float64: a tile of 50,000 x 50,000 distances is looked at once and dropped, and of a set with itself each
pair is computed once. No distance is told from |a|^2 + |b|^2 - 2 a.b more exactly than that sum's own rounding, so
points are seen from the centre of the reference, and "within" allows for SLACK.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nag.metrics.cache import kept

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ROWS, COLUMNS = 4096, 512  # of a tile: 17 MB, and 67 MB for its rows at dimension 2,048
SLACK = 1e-10  # of |a|^2 + |b|^2: far above the rounding of a squared distance, far below any real one


class Points:
    """(N, d) rows less `centre`, turned to float64 a block at a time, and their squared lengths."""

    def __init__(self, rows: np.ndarray, centre: np.ndarray | float = 0.0) -> None:
        import torch

        self.rows, self.centre = rows, centre
        self.squares = torch.empty(len(rows), dtype=torch.float64)  # (N,)
        for part in parts(0, len(rows), COLUMNS):
            self.squares[part] = self.block(part).square().sum(1)

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, part: slice) -> Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.subtract(self.rows[part], self.centre, dtype=np.float64))


def seen(x: np.ndarray, r: np.ndarray) -> tuple[Points, Points]:
    """Samples and reference from the centre of the reference, where distances round least."""
    centre = r.mean(axis=0, dtype="float64")
    return Points(x, centre), Points(r, centre)


def parts(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def products(a: Points, b: Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows of a, rows of b, and a . b of these, (rows, columns). Of a set with itself (b is a) only the tiles that hold
    the diagonal or lie above it: one with columns.start >= rows.stop stands for its mirror image too.
    """
    for rows in parts(0, len(a), ROWS):
        left = a.block(rows)
        for columns in parts(rows.start if b is a else 0, len(b), COLUMNS):  # ROWS is a multiple of COLUMNS
            yield rows, columns, left @ b.block(columns).T


def squared_distances(a: Points, b: Points, slack: float = 0.0) -> Iterator[tuple[slice, slice, Tensor]]:
    """The same with |a - b|^2 - slack (|a|^2 + |b|^2) in place of a . b."""
    for rows, columns, tile in products(a, b):
        tile.mul_(-2).add_(a.squares[rows, None] * (1 - slack)).add_(b.squares[columns] * (1 - slack))
        yield rows, columns, tile


def itself(rows: slice, columns: slice, tile: Tensor) -> Tensor:
    """Where a tile of a set with itself pairs a point with itself: a view."""
    return tile.diagonal(rows.start - columns.start)


def radii(points: Points, k: int) -> Tensor:
    """(N,) squared distance of each point to its k-th nearest other one; k is below N."""
    import torch

    near = torch.full((len(points), k), torch.inf, dtype=torch.float64)

    def see(rows: slice, tile: Tensor) -> None:
        few = tile.topk(min(k, tile.shape[1]), largest=False).values
        near[rows] = torch.cat([near[rows], few], 1).topk(k, largest=False).values

    for rows, columns, tile in squared_distances(points, points):
        if columns.start < rows.stop:
            itself(rows, columns, tile).fill_(torch.inf)
        else:
            see(columns, tile.T.contiguous())
        see(rows, tile)
    return near[:, -1].clamp(min=0)


def reference_radii(points: Points, k: int) -> Tensor:
    """The same of a reference, kept for the next cell."""
    return kept(f"radii {k}", lambda: radii(points, k), points.rows)


def nearest(a: Points, b: Points) -> tuple[np.ndarray, np.ndarray]:
    """Of each point of a: the distance to the nearest of b, which is 0 for an equal one, and that one's row. Of a set
    with itself (b is a): to the nearest other.
    """
    import numpy as np
    import torch

    best = torch.full((len(a),), torch.inf, dtype=torch.float64)
    which = torch.zeros(len(a), dtype=torch.int64)

    def see(rows: slice, columns: slice, tile: Tensor, dim: int) -> None:
        least, found = tile.min(dim)
        closer = least < best[rows]
        best[rows] = torch.where(closer, least, best[rows])
        which[rows] = torch.where(closer, found + columns.start, which[rows])

    for rows, columns, tile in squared_distances(a, b):
        if b is a and columns.start < rows.stop:
            itself(rows, columns, tile).fill_(torch.inf)
        elif b is a:
            see(columns, rows, tile, 0)
        see(rows, columns, tile, 1)
    found = which.numpy()
    gaps = (np.subtract(a.rows[part], b.rows[found[part]], dtype=np.float64) for part in parts(0, len(a), COLUMNS))
    return np.concatenate([np.linalg.norm(gap, axis=1) for gap in gaps]), found
