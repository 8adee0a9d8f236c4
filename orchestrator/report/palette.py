"""One colour per arm, the same in every figure, table and view: the palette of Okabe and Ito, safe for colour-blind
readers. Each colour is visible on white and on black; the first arm, usually the baseline, is grey.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

COLOURS = ("#767676", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
SHADES = (1.0, 0.62, 1.42)  # factors of lightness, for arms beyond the eighth; then they repeat


def arm_colours(names: Iterable[str]) -> dict[str, str]:
    """Arm -> "#RRGGBB" by its place, so pass all arms in the order of the sweep."""
    known = list(dict.fromkeys(names))
    return {name: _colour(place) for place, name in enumerate(known)}


def _colour(place: int) -> str:
    turn, column = divmod(place, len(COLOURS))
    shade, colour = SHADES[turn % len(SHADES)], COLOURS[column]
    if shade == 1.0:
        return colour
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    mixed = colorsys.hls_to_rgb(hue, min(0.72, lightness * shade), saturation)
    return "#" + "".join(f"{round(255 * part):02X}" for part in mixed)
