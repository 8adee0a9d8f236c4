"""Decode an image file to (size, size, 3) uint8, as in the field: RGB, then ADM's centre crop.

Pillow converts every file to RGB: grey is repeated, a palette looked up, CMYK converted, and an alpha channel dropped,
so transparent parts keep their colours. 16-bit grey is scaled by 1/257, because Pillow would clip it. The orientation
in EXIF is ignored, as in guided-diffusion, DiT and SiT.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

LATER_SUFFIXES = (".jfif", ".jpe", ".jfi", ".jif", ".pjpeg", ".pjp")  # other names of JPEG, not in the first release
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", *LATER_SUFFIXES)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's names; others start programs (EPS) or parsers
MOST_PIXELS = 89_478_485  # Pillow's own limit, at which it only warns
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, zlib.error)


class BadImage(ValueError):
    """A file that is not a valid image, or whose pixels have no known range."""


def pixels(data: bytes, size: int, name: str) -> np.ndarray:
    """(size, size, 3) uint8 of the bytes of an image file. Raises BadImage, naming the file."""
    import numpy as np

    with opened(io.BytesIO(data), name) as image:
        return np.asarray(centre_crop(as_rgb(image), size))


@contextlib.contextmanager
def opened(source: str | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Open an image file, by path or content, and read only its header. All images are opened here.

    Raises BadImage, naming the file, for an unknown format or too many pixels and, when the caller decodes it, for a
    damaged file.
    """
    from PIL import Image

    _limit_pixels()
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadImage(f"it has {image.width:,} x {image.height:,} pixels, more than {MOST_PIXELS:,}")
            yield image
    except BadImage as error:
        raise BadImage(f"{name}: {error}") from None
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise BadImage(f"{name}: it cannot be read as an image; its content is not one of {known}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"{name}: it cannot be read as an image: more than {MOST_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise BadImage(f"{name}: it cannot be read as an image (it needs too much memory)") from error
    except DAMAGE as error:
        raise BadImage(f"{name}: it cannot be read as an image ({error})") from error


@functools.cache
def _limit_pixels() -> None:
    """Turn Pillow's warning about too many pixels into an error, in this process."""
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def as_rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, or 32 with 16 used
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise BadImage(f"its levels go from {levels.min()} to {levels.max()}, which 16 bits cannot hold")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers, whose range is not known; store it in 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's crop (Dhariwal & Nichol, arXiv 2105.05233; also DiT and SiT): halve by box means while the short side is at
    least 2 * size, scale the short side to size (bicubic), cut out the middle.
    """
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
