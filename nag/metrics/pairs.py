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
SPARE = 3  # more neighbours that are kept, for those that bounds cannot tell apart
MANY = 64  # a tile in which one pair of so many is unsure is computed once more, in float64


class Kernels(NamedTuple):
    """(N,) sums over the other points, without a point and itself: of (a.b / d + 1)^3, and of
    exp(-|a/|a| - b/|b||^2 / 200), which is NaN for rows that are all zero.
    """

    cubic: Tensor
    gaussian: Tensor


class Within(NamedTuple):
    """Of one set: near (N, k), the squared distances to the nearest other points, ascending; which (N, k), their rows.
    k is at least 5; both are those of float64, and entries beyond the number of other points are infinite.
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

    bounds = neighbours.Bounds(points, points)
    near, sums = _Nearest(bounds, k), _Sums(points, points)
    for rows, columns, tile in neighbours.products(points, points):
        twice = columns.start >= rows.stop  # this tile also stands for its transpose
        for part in neighbours.parts(rows.start, rows.stop, AT_ONCE):
            slab = tile[part.start - rows.start : part.stop - rows.start]
            same = slice(max(part.start, columns.start), min(part.stop, columns.stop))  # pairs of a point and itself
            sums.see(part, columns, slab, None if twice else same, twice)
            least = bounds.lower(part, columns, slab)
            if not twice:
                at = torch.arange(same.start, max(same.start, same.stop))
                least[at - part.start, at - columns.start] = torch.inf
            near.see(part, columns, least)
        if twice:
            near.see(columns, rows, tile.T)
    return Within(*near.found(), sums.kernels(len(points) - 1))


def _between(x: Points, r: Points, ks: tuple[int, ...], own: Within | None) -> Between:
    bounds, of_r = neighbours.Bounds(x, r), within(r, max(ks))
    near, sums = _Nearest(bounds, 1), _Sums(x, r)
    balls = _Balls(
        bounds,
        {k: of_r.radii(k) for k in ks if k < len(r)},
        {k: own.radii(k) for k in ks if k < len(x)} if own else {},
    )
    for rows, columns, tile in neighbours.products(x, r):
        for part in neighbours.parts(rows.start, rows.stop, AT_ONCE):
            slab = tile[part.start - rows.start : part.stop - rows.start]
            sums.see(part, columns, slab, None, False)
            least = bounds.lower(part, columns, slab)
            near.see(part, columns, least)
            balls.see(part, columns, least)
    which = near.found()[1][:, 0]
    return Between(which, sums.kernels(len(r)), balls.holding, balls.held, balls.reached if own else None)


class _Sums:
    """Sums of both kernels over tiles of products of a and b, which are relative to a centre."""

    def __init__(self, a: Points, b: Points) -> None:
        import torch

        dtype = neighbours.precision(a, b)
        self.cubic, self.gaussian = (torch.zeros(len(a), dtype=torch.float64, device=a.device) for _ in range(2))
        self.dim = a.rows.shape[1]
        self.of_a, self.of_b = a.from_origin.to(dtype), b.from_origin.to(dtype)
        self.scale_a, self.scale_b = (each.lengths.reciprocal().to(dtype) for each in (a, b))

    def see(self, rows: slice, columns: slice, products: Tensor, same: slice | None, transposed: bool) -> None:
        """same: the points that the tile pairs with themselves. transposed: also count the pairs the other way."""
        dot = products + self.of_a[rows, None]
        dot += self.of_b[columns]
        cosine = dot * self.scale_a[rows, None]
        cosine *= self.scale_b[columns]
        dot.div_(self.dim).add_(1)
        cubic = dot.square().mul_(dot)
        less = _expm1(cosine.sub_(1).clamp_(max=0).mul_(1 / SIGMA**2))  # |a - b|^2 is 2 - 2 cos
        for total, kernel in ((self.cubic, cubic), (self.gaussian, less)):
            if same is not None and same.stop > same.start:
                kernel[same.start - rows.start :, same.start - columns.start :].diagonal()[: same.stop - same.start] = 0
            total[rows] += kernel.sum(1)
            if transposed:
                total[columns] += kernel.sum(0)

    def kernels(self, others: int) -> Kernels:
        """The sums over so many others. The Gaussian's are of k - 1 so far: near 1 float32 has few digits."""
        return Kernels(self.cubic, self.gaussian + others)


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 for x from -0.02 to 0. In float32 four terms of its series are exact, and take less time."""
    import torch

    if x.dtype == torch.float64:
        return x.expm1_()
    one = torch.ones((), dtype=x.dtype, device=x.device)
    series = torch.add(one, x, alpha=1 / 4)
    for number in (3, 2):
        torch.addcmul(one, series, x, value=1 / number, out=series)
    return series.mul_(x)


class _Nearest:
    """The k nearest points of b of each point of a. Those that bounds cannot tell apart are kept too, and measured."""

    def __init__(self, bounds: neighbours.Bounds, k: int) -> None:
        import torch

        self.bounds, self.k, self.most = bounds, k, k + SPARE
        size, device = (len(bounds.a), self.most), bounds.a.device
        self.least = torch.full(size, torch.inf, dtype=neighbours.precision(bounds.a, bounds.b), device=device)
        self.which = torch.zeros(size, dtype=torch.int64, device=device)

    def see(self, rows: slice, columns: slice, least: Tensor) -> None:
        """Only rows with a smaller distance than those so far are sorted."""
        import torch

        closer = torch.nonzero(least.amin(1) < self.least[rows, -1])[:, 0]
        if not len(closer):
            return
        few = least[closer].topk(min(self.most, least.shape[1]), largest=False)
        at = closer + rows.start
        values = torch.cat([self.least[at], few.values], 1)
        which = torch.cat([self.which[at], few.indices + columns.start], 1)
        best = values.topk(self.most, largest=False)
        self.least[at], self.which[at] = best.values, which.gather(1, best.indices)

    def found(self) -> tuple[Tensor, Tensor]:
        """(N, k) squared distances in float64, ascending, and the rows of b; infinite beyond the number of others."""
        import torch

        a, b = self.bounds.a, self.bounds.b
        least, i = self.least.double(), torch.arange(len(a), device=a.device)[:, None].expand_as(self.which)
        most = (least + self.bounds.width(i, self.which)).sort(1).values[:, self.k - 1, None]
        asked = (least <= most) & least.isfinite()
        squares = torch.full_like(least, torch.inf)
        squares[asked] = neighbours.squares_of(a, b, i[asked], self.which[asked])
        best = squares.topk(self.k, largest=False)
        near, which = best.values, self.which.gather(1, best.indices)
        for rows in torch.nonzero(asked[:, -1])[:, 0].split(neighbours.COLUMNS):  # others may be as near
            near[rows], which[rows] = _of_rows(a, b, rows, self.k)
        return near, which


def _of_rows(a: Points, b: Points, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`_Nearest.found` of some rows of a, from float64 products with all of b."""
    import torch

    size = (len(rows), k)
    near = torch.full(size, torch.inf, dtype=torch.float64, device=a.device)
    which = torch.zeros(size, dtype=torch.int64, device=a.device)
    left = a.block(rows.cpu().numpy())
    for columns in neighbours.parts(0, len(b), neighbours.ROWS):
        squares = (left @ b.block(columns).T).mul_(-2).add_(a.squares[rows, None]).add_(b.squares[columns])
        if b is a:
            own = torch.nonzero((rows >= columns.start) & (rows < columns.stop))[:, 0]
            squares[own, rows[own] - columns.start] = torch.inf
        few = squares.topk(min(k, squares.shape[1]), largest=False)
        values, at = torch.cat([near, few.values], 1), torch.cat([which, few.indices + columns.start], 1)
        best = values.topk(k, largest=False)
        near, which = best.values, at.gather(1, best.indices)
    finite = near.isfinite()
    near[finite] = neighbours.squares_of(a, b, rows[:, None].expand(size)[finite], which[finite])
    return near, which


class _Balls:
    """Which balls of x and of the reference hold points of the other set: by k, of (N,) and (N_r,) squared radii."""

    def __init__(self, bounds: neighbours.Bounds, of_r: dict[int, Tensor], of_x: dict[int, Tensor]) -> None:
        import torch

        self.bounds, self.of_r, self.of_x = bounds, of_r, of_x
        x, r = bounds.a, bounds.b
        dtype = neighbours.precision(x, r)
        self.widest_r, self.widest_x = (
            torch.stack([*radii.values()]).amax(0).to(dtype) if radii else None for radii in (of_r, of_x)
        )
        self.holding = {k: torch.zeros(len(x), dtype=torch.int64, device=x.device) for k in of_r}
        self.held = {k: torch.zeros(len(r), dtype=torch.bool, device=x.device) for k in of_r}
        self.reached = {k: torch.zeros(len(r), dtype=torch.bool, device=x.device) for k in of_x}

    def see(self, rows: slice, columns: slice, least: Tensor) -> None:
        """Pairs that may be within the widest ball are few; only those are compared with each."""
        import torch

        may = None if self.widest_r is None else least <= self.widest_r[columns]
        if self.widest_x is not None:
            reach = least <= self.widest_x[rows, None]
            may = reach if may is None else may.logical_or_(reach)
        if may is None:
            return
        at = torch.nonzero(may)
        if not len(at):
            return
        i, j = at[:, 0] + rows.start, at[:, 1] + columns.start
        squares = self._decided(i, j, least[at[:, 0], at[:, 1]].double(), rows, columns)
        for k, radii in self.of_r.items():
            inside = squares <= radii[j]
            self.holding[k].index_add_(0, i, inside.long())
            self.held[k][j[inside]] = True
        for k, radii in self.of_x.items():
            self.reached[k][j[squares <= radii[i]]] = True

    def _decided(self, i: Tensor, j: Tensor, least: Tensor, rows: slice, columns: slice) -> Tensor:
        """Squared distances (less the slack) that compare with every radius as the exact ones do: the least possible
        one where no radius is between that and the largest possible one, else the distance itself.
        """
        import torch

        most = least + self.bounds.width(i, j)
        unsure = torch.zeros_like(i, dtype=torch.bool)
        for radii, own in ((self.of_r, j), (self.of_x, i)):
            for each in radii.values():
                unsure |= (least <= each[own]) & (each[own] < most)
        few, x, r = torch.nonzero(unsure)[:, 0], self.bounds.a, self.bounds.b
        i, j = i[few], j[few]
        if len(few) * MANY > (rows.stop - rows.start) * (columns.stop - columns.start):
            squares = (x.block(rows) @ r.block(columns).T)[i - rows.start, j - columns.start]
            squares = squares.mul_(-2).add_(x.squares[i]).add_(r.squares[j])
        else:
            squares = neighbours.squares_of(x, r, i, j)
        least[few] = squares - neighbours.SLACK * (x.squares[i] + r.squares[j])
        return least
