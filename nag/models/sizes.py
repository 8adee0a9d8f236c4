"""The sizes of Peebles and Xie (DiT, arXiv 2212.09748, table 1), which SiT also uses: `SiT(**SIZES["XL/2"])`."""

from __future__ import annotations

_WIDTHS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}  # hidden, depth, heads
_PATCHES = (2, 4, 8)

SIZES: dict[str, dict[str, int]] = {
    f"{name}/{patch}": {"hidden": hidden, "depth": depth, "heads": heads, "patch": patch}
    for name, (hidden, depth, heads) in _WIDTHS.items()
    for patch in _PATCHES
}


def parameters(hidden: int, depth: int) -> int:
    """About how many parameters a transformer has, without its embeddings: each block of DiT has 4 h^2 in its
    attention, 8 h^2 in its MLP and 6 h^2 in its modulation (adaLN).
    """
    return 18 * depth * hidden**2


def heads_of(hidden: int, depth: int) -> int | None:
    """The number of heads of the known size of this width and depth, or None. Weights do not show it."""
    return {(width, blocks): heads for width, blocks, heads in _WIDTHS.values()}.get((hidden, depth))
