"""The font of figures: the Latin and Greek letters and the signs of DejaVu Sans, which is part of matplotlib.

matplotlib reads a font anew for each PDF that embeds it. For the 6,000 letters of DejaVu Sans that is half the time of
a report, so these few are kept in a cache, under a name of their own. A letter that they lack comes from the whole.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
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


def families() -> tuple[str, ...]:
    """The families to draw with, registered in matplotlib. DejaVu Sans alone where their files cannot be written."""
    for folder in _folders():
        with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be written, a file that is no font
            for name in FILES:
                if not (folder / name).exists():
                    with whole_file(folder / name) as temporary:
                        _write_few(name, temporary)
            _register(folder)
            return FEW, WHOLE
    return (WHOLE,)


def _folders() -> Iterator[Path]:
    """The cache, or else one for this process alone: a report has the same bytes with and without a home."""
    import matplotlib

    yield cache.folder("fonts") / f"matplotlib-{matplotlib.__version__}-{FORMAT}"
    with contextlib.suppress(OSError):  # no place for temporary files
        yield Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="nagbench-fonts-")


@functools.cache
def _register(folder: Path) -> None:
    from matplotlib import font_manager

    for name in FILES:
        font_manager.fontManager.addfont(str(folder / name))


def _write_few(name: str, to: Path) -> None:
    import matplotlib
    from fontTools import subset

    options = subset.Options(glyph_names=True, name_IDs=["*"], layout_features=["kern"], layout_scripts=["latn.dflt"])
    options.drop_tables += ["FFTM"]
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[letter for first, end in LETTERS for letter in range(first, end)])
    with subset.load_font(str(Path(matplotlib.get_data_path(), "fonts/ttf", name)), options) as read:
        chosen.subset(read)
        for record in read["name"].names:  # those of its licence do not hold its name
            words = record.toUnicode().replace(WHOLE, FEW)
            record.string = words.replace(WHOLE.replace(" ", ""), FEW.replace(" ", ""))
        read.save(str(to))
