"""Products and distances of all pairs, in tiles of bounded memory, for nearest neighbours and kernels.

Everything is float64. Of 50,000 x 50,000 distances each tile is used once and dropped, and within one set each pair is
computed once. A distance from |a|^2 + |b|^2 - 2 a.b is only as exact as the rounding of that sum, so points are taken
relative to the centre of the reference, and "within" allows for SLACK.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nag.metrics.cache import kept

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ROWS, COLUMNS = 4096, 512  # of a tile, which takes 17 MB, and its rows 67 MB at dimension 2,048
SLACK = 1e-10  # relative to |a|^2 + |b|^2: far above the rounding of a squared distance, far below a real one


class Points:
    """(N, d) rows minus `centre`, converted to float64 a block at a time, and their squared lengths, on a device."""

    def __init__(self, rows: np.ndarray, centre: np.ndarray | float = 0.0, device: str = "cpu") -> None:
        import torch

        self.rows, self.centre, self.device = rows, centre, device
        self.squares = torch.empty(len(rows), dtype=torch.float64, device=device)  # (N,)
        for part in parts(0, len(rows), COLUMNS):
            self.squares[part] = self.block(part).square().sum(1)

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, part: slice) -> Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.subtract(self.rows[part], self.centre, dtype=np.float64)).to(self.device)


class Directions(Points):
    """The rows scaled to length 1. Raises ValueError, naming the first that is all zero; `what` names the rows."""

    def __init__(self, rows: np.ndarray, what: str) -> None:
        import numpy as np

        self.lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        if not self.lengths.all():
            raise ValueError(f"{what}: row {int(self.lengths.argmin())} of {len(rows)} is all zero: no direction")
        super().__init__(rows)

    def block(self, part: slice) -> Tensor:
        import torch

        return super().block(part) / torch.from_numpy(self.lengths[part, None])


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


def squared_distances(a: Points, b: Points, slack: float = 0.0) -> Iterator[tuple[slice, slice, Tensor]]:
    """As `products`, with |a - b|^2 - slack (|a|^2 + |b|^2) in place of a . b."""
    for rows, columns, tile in products(a, b):
        tile.mul_(-2).add_(a.squares[rows, None] * (1 - slack)).add_(b.squares[columns] * (1 - slack))
        yield rows, columns, tile


def itself(rows: slice, columns: slice, tile: Tensor) -> Tensor:
    """The entries of a tile that pair a point with itself, if b is a: a view."""
    return tile.diagonal(rows.start - columns.start)


def radii(points: Points, k: int) -> Tensor:
    """(N,) squared distance of each point to its k-th nearest other point; k is below N."""
    import torch

    near = torch.full((len(points), k), torch.inf, dtype=torch.float64, device=points.device)

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
    """The `radii` of a reference, cached for the next cell."""
    return kept(f"radii {k}", lambda: radii(points, k), points.rows)


def nearest(a: Points, b: Points) -> tuple[np.ndarray, np.ndarray]:
    """For each point of a: the distance to the nearest point of b, which is 0 for an equal one, and its row in b. If b
    is a: to the nearest other point.
    """
    import numpy as np
    import torch

    best = torch.full((len(a),), torch.inf, dtype=torch.float64)
    which = torch.zeros(len(a), dtype=torch.int64)

    def see(rows: slice, columns: slice, tile: Tensor, dim: int) -> None:
        least, place = tile.min(dim)
        closer = least < best[rows]
        best[rows] = torch.where(closer, least, best[rows])
        which[rows] = torch.where(closer, place + columns.start, which[rows])

    for rows, columns, tile in squared_distances(a, b):
        if b is a and columns.start < rows.stop:
            itself(rows, columns, tile).fill_(torch.inf)
        elif b is a:
            see(columns, rows, tile, 0)
        see(rows, columns, tile, 1)
    index = which.numpy()
    gaps = (np.subtract(a.rows[part], b.rows[index[part]], dtype=np.float64) for part in parts(0, len(a), COLUMNS))
    return np.concatenate([np.linalg.norm(gap, axis=1) for gap in gaps]), index


def nearest_kept(a: Points, b: Points) -> tuple[np.ndarray, np.ndarray]:
    """`nearest`, cached for the next metric or cell that asks for the same rows."""
    which = "other" if b is a else "point"
    return kept(f"nearest {which}", lambda: nearest(a, b), a.rows, b.rows)
