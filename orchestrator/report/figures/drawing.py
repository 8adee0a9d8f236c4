"""A figure and its renderings: SVG and PDF files for a paper, an SVG that follows a page's theme, a PNG.

Text stays text. Equal figures give equal bytes: ids come from the name, and there are no dates.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from orchestrator.report.figures.colours import GRID, INK, LIGHT, MUTED, Colours
from orchestrator.report.figures.fonts import families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT = "system-ui, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
PNG_DPI = 220
COLUMN, PAGE = 3.25, 6.75  # inches: the width of a column and of a page of two columns, as in ICML
STYLE: dict[str, Any] = {
    "font.size": 7.5,
    "text.color": INK,
    "text.parse_math": False,  # shows dollar signs in names as they are
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 5.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "figure.dpi": 72,  # a pixel of layout is a point
    "figure.facecolor": "none",
    "image.composite_image": False,  # each sample stays an image of its own
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, embedded: what publishers accept
}


@dataclass(frozen=True)
class Drawing:
    name: str  # of its file
    section: str  # of the report that it belongs to
    title: str
    caption: str
    figure: Figure
    tall: bool = False  # as wide as a page, not as a column

    @functools.cached_property
    def svg(self) -> tuple[str, str, str]:
        """The inside of matplotlib's <svg>, and its width and height in points. Drawn once for both."""
        return _svg(self)


@contextlib.contextmanager
def styled(**more: Any) -> Iterator[None]:
    """A context to draw and render in; restores matplotlib's settings."""
    import matplotlib

    settings: Any = {**STYLE, "font.family": families(), **more}
    with matplotlib.rc_context(settings):
        yield


def svg_file(drawing: Drawing) -> str:
    """An SVG file: light colours on white, for papers, READMEs and viewers without CSS variables."""
    text, width, height = drawing.svg
    paper = f'<rect width="{width}" height="{height}" style="fill: {LIGHT["paper"]}"/>'
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1" '
        f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}">\n'
        f"<title>{escape(drawing.title)}</title>\n"
    )
    return f"{head}{paper}\n{text}\n</svg>\n"


def svg_inline(drawing: Drawing, colours: Colours) -> str:
    """An SVG element for HTML: no namespaces, colours as CSS variables, title and caption as its label."""
    text, width, height = drawing.svg
    variables = colours.variables

    def variable(match: re.Match[str]) -> str:
        return f"{match[1]}: var(--{variables[match[2]]})" if match[2] in variables else match[0]

    text = re.sub(r"(fill|stroke): ?(#[0-9a-f]{6})", variable, text).replace("xlink:href", "href")
    label = escape(f"{drawing.title}. {drawing.caption}", quote=True)
    shown = f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}"'
    return f'<svg role="img" aria-label="{label}" {shown}>\n{text}\n</svg>'


def png(drawing: Drawing) -> bytes:
    """A PNG on white."""
    out = io.BytesIO()
    with styled():
        drawing.figure.savefig(out, format="png", dpi=PNG_DPI, facecolor=LIGHT["paper"], metadata={"Software": None})
    return out.getvalue()


def pdf_file(drawing: Drawing) -> bytes:
    """A PDF file with embedded fonts, as wide as a paper's column or page, on white."""
    out = io.BytesIO()
    nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    with styled():
        drawing.figure.savefig(out, format="pdf", facecolor=LIGHT["paper"], metadata=nothing)
    return out.getvalue()


def _svg(drawing: Drawing) -> tuple[str, str, str]:
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled(**{"svg.hashsalt": drawing.name}):
        drawing.figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    text = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]  # without its own style sheet
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+"', "<g", text)  # numbers that repeat between figures of a page
    text = re.sub(r' id="image[0-9a-f]+"', "", text)  # equal for equal samples, and not used
    text = re.sub(r"font-family: [^;\"]+", f"font-family: {FONT}", text)
    text = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]+", rf"\1 {FONT}", text)
    text = re.sub(r"\n\s+", "\n", text).strip()
    return f'<g style="stroke-linejoin: round; stroke-linecap: butt">\n{text}\n</g>', width, height
