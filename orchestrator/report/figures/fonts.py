"""The font of figures: the Latin and Greek letters and the signs of DejaVu Sans, which is part of matplotlib.

matplotlib reads a font anew for each PDF that embeds it. For the 6,000 letters of DejaVu Sans that is half the time of
a report, so these few are kept in a cache, under a name of their own. A letter that they lack comes from the whole.
"""

from __future__ import annotations

import functools
from pathlib import Path

from nag import cache
from nag.whole_file import whole_file

WHOLE, FEW = "DejaVu Sans", "DejaVu Sans Latin"
FILES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
LETTERS = (
    (0x20, 0x250),  # Latin
    (0x370, 0x400),  # Greek
    (0x2010, 0x2028),  # dashes, quotes, dots
    (0x2070, 0x20A0),  # raised and lowered
    (0x2190, 0x219A),  # arrows
    (0x2200, 0x2300),  # mathematics
)
FORMAT = 1  # raise it when the kept file would differ


@functools.cache
def families() -> tuple[str, ...]:
    """The families to draw with, registered in matplotlib. DejaVu Sans alone where nothing can be kept."""
    import matplotlib
    from matplotlib import font_manager

    whole = Path(matplotlib.get_data_path(), "fonts/ttf")
    kept = cache.folder("fonts") / f"matplotlib-{matplotlib.__version__}-{FORMAT}"
    try:
        for name in FILES:
            if not (kept / name).exists():
                with whole_file(kept / name) as temporary:
                    _write_few(whole / name, temporary)
            font_manager.fontManager.addfont(str(kept / name))
    except (OSError, RuntimeError):  # a home that cannot be written, a file that is no font
        return (WHOLE,)
    return FEW, WHOLE


def _write_few(font: Path, to: Path) -> None:
    from fontTools import subset

    options = subset.Options(glyph_names=True, name_IDs=["*"], layout_features=["kern"], layout_scripts=["latn.dflt"])
    options.drop_tables += ["FFTM"]
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[letter for first, end in LETTERS for letter in range(first, end)])
    with subset.load_font(str(font), options) as read:
        chosen.subset(read)
        for record in read["name"].names:  # those of its licence do not hold its name
            name = record.toUnicode().replace(WHOLE, FEW)
            record.string = name.replace(WHOLE.replace(" ", ""), FEW.replace(" ", ""))
        read.save(str(to))
