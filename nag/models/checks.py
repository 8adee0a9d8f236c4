"""Networks, one a file: frozen descriptions that build a torch module, and say what it is trained on.

Add one: a file here with a class that has `generates`, `fits`, `module` and `loss`, and a line in `nag/registry.py`.
"""

from __future__ import annotations

WIDEST = 2**20  # of a transformer or its MLPs; XL has 1,152 and 4,608


def widths_fit(hidden: int, heads: int, mlp_ratio: float) -> None:
    """Raises ValueError for widths of which no transformer can be made."""
    if hidden % heads:
        raise ValueError(f"hidden ({hidden}) must be a multiple of heads ({heads})")
    if hidden % 4:
        raise ValueError(f"hidden ({hidden}) must be a multiple of 4, for sine and cosine of row and column")
    if hidden > WIDEST:
        raise ValueError(f"hidden ({hidden}) is above {WIDEST:,}")
    if hidden * mlp_ratio > WIDEST:
        raise ValueError(f"mlp_ratio ({mlp_ratio}) makes the MLPs wider than {WIDEST:,}")
    if int(hidden * mlp_ratio) < 1:
        raise ValueError(f"mlp_ratio ({mlp_ratio}) leaves the MLPs no width")


def patches_fit(patch: int, shape: tuple[int, int, int]) -> None:
    """Raises ValueError if patches of this side do not tile states of this shape (C, H, W)."""
    _, height, width = shape
    if height % patch or width % patch:
        raise ValueError(f"patches of side {patch} do not tile states of {height} x {width}")
