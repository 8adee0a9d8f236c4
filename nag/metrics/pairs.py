"""What metrics need of all pairs of points, found together in one pass over each matrix of products.

KID, CMMD, precision and recall, density and coverage, memorisation and authenticity all look at the same pairs. The
products with 2,048 columns cost most, so a pass takes along all sums and neighbours, and later metrics read them from
the cache. Memory is bounded by a tile and a few numbers for each point, whatever their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nag.metrics import neighbours
from nag.metrics.cache import cached, kept

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from nag.metrics.neighbours import Points

USUAL = 5  # nearest others that are always kept: the most that a metric's default asks for
BALLS = (3, USUAL)  # the defaults of precision and recall, and of density and coverage
SIGMA = 10.0  # of the Gaussian kernel of rows of length 1
AT_ONCE = 256  # rows of a tile, so that what follows the products works in the processor's cache


class Kernels(NamedTuple):
    """(N,) sums over the other points, without a point and itself: of (a.b / d + 1)^3, and of
    exp(-|a/|a| - b/|b||^2 / 200), which is NaN for rows that are all zero.
    """

    cubic: Tensor
    gaussian: Tensor


class Within(NamedTuple):
    """Of one set: near (N, k), the squared distances to the nearest other points, ascending; which (N, k), their rows.
    k is at least 5, and entries beyond the number of other points are infinite.
    """

    near: Tensor
    which: Tensor
    kernels: Kernels

    def radii(self, k: int) -> Tensor:
        """(N,) squared distance of each point to its k-th nearest other point; k is below N."""
        return self.near[:, k - 1].clamp(min=0)


class Between(NamedTuple):
    """Of samples and a reference: which (N,), the row of the reference that is nearest to each sample.

    By k: holding (N,), how many of the reference's balls hold each sample; held (N_r,), whether a ball of the reference
    holds any sample; reached (N_r,), whether a ball of any sample holds that image, or None without the samples' balls.
    """

    which: Tensor
    kernels: Kernels
    holding: dict[int, Tensor]
    held: dict[int, Tensor]
    reached: dict[int, Tensor] | None


def within(points: Points, k: int = USUAL) -> Within:
    """`Within` of one set, cached for other metrics and cells."""
    k = max(k, USUAL)
    return kept(f"within {k} {points.content}", lambda: _within(points, k))


def between(x: Points, r: Points, k: int = USUAL, reach: bool = False) -> Between:
    """`Between` with balls of k and of the usual sizes, cached. reach: with the balls of x, which need all pairs of x;
    they are taken along where these are known already.
    """
    ks = tuple(sorted({*BALLS, k}))
    name = f"between {ks} {x.content} {r.content}"
    known: Between | None = cached(f"{name} reach")
    if known is not None:
        return known
    if not reach and cached(f"within {max(ks)} {x.content}") is None:
        return kept(name, lambda: _between(x, r, ks, None))
    return kept(f"{name} reach", lambda: _between(x, r, ks, within(x, max(ks))))


def nearest(x: Points, r: Points) -> tuple[np.ndarray, np.ndarray]:
    """For each point of x: the distance to the nearest point of r, which is 0 for an equal one, and its row in r. If r
    is x: to the nearest other point.
    """
    which = (within(x).which[:, 0] if r is x else between(x, r).which).cpu().numpy()
    return neighbours.distances_to(x, r, which), which


def _within(points: Points, k: int) -> Within:
    import torch

    near = _Nearest(points, k)
    sums = _Sums(points, points)
    for rows, columns, tile in neighbours.products(points, points):
        twice = columns.start >= rows.stop  # this tile also stands for its transpose
        for part in neighbours.parts(rows.start, rows.stop, AT_ONCE):
            slab = tile[part.start - rows.start : part.stop - rows.start]
            same = slice(max(part.start, columns.start), min(part.stop, columns.stop))  # pairs of a point and itself
            sums.see(part, columns, slab, None if twice else same, twice)
            distances = neighbours.squared(points, points, part, columns, slab)
            if not twice:
                at = torch.arange(same.start, max(same.start, same.stop))
                distances[at - part.start, at - columns.start] = torch.inf
            near.see(part, columns, distances)
        if twice:
            near.see(columns, rows, tile.T)
    return Within(near.squares, near.which, Kernels(sums.cubic, sums.gaussian))


def _between(x: Points, r: Points, ks: tuple[int, ...], own: Within | None) -> Between:
    import torch

    near, sums = _Nearest(x, 1), _Sums(x, r)
    of_r, of_x = within(r, max(ks)), {k: own.radii(k) for k in ks} if own else {}
    sizes = [k for k in ks if k < len(r)]
    holding = {k: torch.zeros(len(x), dtype=torch.int64, device=x.device) for k in sizes}
    held = {k: torch.zeros(len(r), dtype=torch.bool, device=x.device) for k in sizes}
    reached = {k: torch.zeros(len(r), dtype=torch.bool, device=x.device) for k in of_x if k < len(x)}
    for rows, columns, tile in neighbours.products(x, r):
        for part in neighbours.parts(rows.start, rows.stop, AT_ONCE):
            slab = tile[part.start - rows.start : part.stop - rows.start]
            sums.see(part, columns, slab, None, False)
            distances = neighbours.squared(x, r, part, columns, slab)
            near.see(part, columns, distances)
            distances.sub_(neighbours.SLACK * (x.squares[part, None] + r.squares[columns]))
            for k in sizes:
                inside = distances <= of_r.radii(k)[columns]
                holding[k][part] += inside.sum(1)
                held[k][columns] |= inside.any(0)
            for k in reached:
                reached[k][columns] |= (distances <= of_x[k][part, None]).any(0)
    return Between(near.which[:, 0], Kernels(sums.cubic, sums.gaussian), holding, held, reached if own else None)


class _Sums:
    """Sums of both kernels over tiles of products of a and b, which are relative to a centre."""

    def __init__(self, a: Points, b: Points) -> None:
        import torch

        self.cubic, self.gaussian = (torch.zeros(len(a), dtype=torch.float64, device=a.device) for _ in range(2))
        self.dim = a.rows.shape[1]
        self.of_a, self.of_b = a.from_origin, b.from_origin
        self.scale_a, self.scale_b = (each.lengths.reciprocal() for each in (a, b))

    def see(self, rows: slice, columns: slice, products: Tensor, same: slice | None, transposed: bool) -> None:
        """same: the points that the tile pairs with themselves. transposed: also count the pairs the other way."""
        dot = products + self.of_a[rows, None]
        dot += self.of_b[columns]
        cosine = dot * self.scale_a[rows, None]
        cosine *= self.scale_b[columns]
        dot.div_(self.dim).add_(1)
        cubic = dot.square().mul_(dot)
        gaussian = cosine.sub_(1).clamp_(max=0).mul_(1 / SIGMA**2).exp_()  # |a - b|^2 is 2 - 2 cos
        for total, kernel in ((self.cubic, cubic), (self.gaussian, gaussian)):
            if same is not None and same.stop > same.start:
                kernel[same.start - rows.start :, same.start - columns.start :].diagonal()[: same.stop - same.start] = 0
            total[rows] += kernel.sum(1)
            if transposed:
                total[columns] += kernel.sum(0)


class _Nearest:
    """The k smallest squared distances of each point so far. Only rows with a smaller one than those are sorted."""

    def __init__(self, points: Points, k: int) -> None:
        import torch

        size, device = (len(points), k), points.device
        self.squares = torch.full(size, torch.inf, dtype=torch.float64, device=device)
        self.which = torch.zeros(size, dtype=torch.int64, device=device)
        self.k = k

    def see(self, rows: slice, columns: slice, distances: Tensor) -> None:
        import torch

        closer = torch.nonzero(distances.amin(1) < self.squares[rows, -1])[:, 0]
        if not len(closer):
            return
        few = distances[closer].topk(min(self.k, distances.shape[1]), largest=False)
        at = closer + rows.start
        squares = torch.cat([self.squares[at], few.values], 1)
        which = torch.cat([self.which[at], few.indices + columns.start], 1)
        best = squares.topk(self.k, largest=False)
        self.squares[at], self.which[at] = best.values, which.gather(1, best.indices)
