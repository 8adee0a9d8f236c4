"""Colours of figures and pages: one per arm, and ink, muted, grid and paper for light and dark pages.

A figure is drawn in the light colours. On a page each becomes a CSS variable, which follows the theme.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cached_property

from orchestrator.report.palette import arm_colours

LIGHT = {"ink": "#1c2024", "muted": "#5c6570", "grid": "#dde1e6", "paper": "#ffffff"}
DARK = {"ink": "#e7eaee", "muted": "#a3abb6", "grid": "#343b44", "paper": "#14171b"}
INK, MUTED, GRID = LIGHT["ink"], LIGHT["muted"], LIGHT["grid"]
TEXT_CONTRAST = 4.6  # WCAG AA for small text is 4.5
MARKERS = "os^Dv<>p"  # arms differ without colour too


@dataclass(frozen=True)
class Colours:
    arms: tuple[str, ...]

    @cached_property
    def marks(self) -> dict[str, str]:
        return {arm: colour.lower() for arm, colour in arm_colours(self.arms).items()}

    def mark(self, arm: str) -> str:
        """Colour of an arm's lines and points, on light and dark paper."""
        return self.marks[arm]

    def text(self, arm: str) -> str:
        """Colour of its name, readable on light paper."""
        return readable(self.marks[arm], LIGHT["paper"])

    def marker(self, arm: str) -> str:
        return MARKERS[self.arms.index(arm) % len(MARKERS)]

    def place(self, arm: str) -> int:
        return self.arms.index(arm)

    @cached_property
    def variables(self) -> dict[str, str]:
        """Colour in the drawing -> name of its CSS variable."""
        names = {colour: name for name, colour in LIGHT.items()}
        for place, arm in enumerate(self.arms):
            names.setdefault(self.mark(arm), f"arm{place}")
            names.setdefault(self.text(arm), f"arm{place}-text")
        return names

    def css(self, dark: bool) -> str:
        """The variables' values as CSS declarations."""
        base = DARK if dark else LIGHT
        values = dict(base)
        for place, arm in enumerate(self.arms):
            values[f"arm{place}"] = self.mark(arm)
            values[f"arm{place}-text"] = readable(self.mark(arm), base["paper"])
        return " ".join(f"--{name}: {colour};" for name, colour in values.items())


def readable(colour: str, paper: str, contrast_wanted: float = TEXT_CONTRAST) -> str:
    """The colour, darkened on light paper or lightened on dark until text in it is readable. Never the colour itself,
    so that text and mark stay two variables.
    """
    red, green, blue = _rgb(colour)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    step = 0.01 if luminance(paper) < 0.5 else -0.01
    while 0 < lightness < 1:
        lightness = min(1.0, max(0.0, lightness + step))
        mixed = "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))
        if contrast(mixed, paper) >= contrast_wanted:
            return mixed
    return mixed


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
