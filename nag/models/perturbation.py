"""Perturbed forward passes of a transformer, for guidance away from them: which rows change in a block, and how.

Skipped blocks (SLG, in diffusers), attention as the identity (PAG, Ahn et al., arXiv 2403.17377) and with blurred
queries (SEG, Hong, arXiv 2408.00760).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from nag.field import Change, Perturbation

if TYPE_CHECKING:
    from torch import Tensor


def pieces(changes: Sequence[Change], layer: int, size: int) -> list[tuple[slice, Perturbation | None]]:
    """The rows 0 to size - 1 of a batch in consecutive parts, each with what changes in this layer; neighbours that are
    treated alike are one part.
    """
    parts: list[tuple[int, int, Perturbation | None]] = []
    done = 0
    for rows, perturbation, _ in sorted(changes, key=lambda change: change.rows.start):
        parts += [(done, rows.start, None)] if rows.start > done else []
        parts.append((rows.start, rows.stop, perturbation if layer in perturbation.layers else None))
        done = rows.stop
    parts += [(done, size, None)] if size > done else []
    grouped = [(change, list(group)) for change, group in groupby(parts, key=lambda part: part[2])]
    return [(slice(group[0][0], group[-1][1]), change) for change, group in grouped]


def blurred(q: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Queries (N, heads, T, d) of the tokens of a grid, blurred over rows and columns (SEG, section 4).

    The kernel has ceil(6 sigma) tokens, made odd, as in SEG's code, and at most those that the grid can mirror at its
    border. sigma = inf is the mean of all queries.
    """
    import torch
    from torch.nn import functional

    n, heads, tokens, d = q.shape
    if math.isinf(sigma):
        return q.mean(dim=2, keepdim=True).expand_as(q)
    x = q.transpose(2, 3).reshape(n * heads * d, 1, *grid)
    for axis, side in enumerate(grid):
        wanted = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
        half = min(wanted, side - (side % 2 - 1)) // 2
        place = torch.arange(-half, half + 1, dtype=q.dtype, device=q.device)
        kernel = torch.exp(-0.5 * (place / sigma) ** 2)
        kernel = kernel / kernel.sum()
        pad = (0, 0, half, half) if axis == 0 else (half, half, 0, 0)
        shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        x = functional.conv2d(functional.pad(x, pad, mode="reflect"), kernel.view(shape))
    return x.reshape(n, heads, d, tokens).transpose(2, 3)
