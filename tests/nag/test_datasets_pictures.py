"""Image files that are not what they seem: other formats, programs, bombs."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nag.datasets.image_folder import ImageFolder
from nag.datasets.images import SUFFIXES, BadImage, opened, pixels

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
%%EndComments
newpath 0 0 moveto 16 16 lineto stroke
showpage
%%EOF
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, which is tiny however large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), b""
    for _ in range(height):
        rows += packer.compress(bytes(1 + (width + 7) // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gs` that Pillow finds; the file that it leaves when it is started."""
    from PIL import EpsImagePlugin

    (tmp_path / "bin").mkdir()
    started = tmp_path / "started"
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


def test_no_picture_starts_a_program(tmp_path: Path, ghostscript: Path) -> None:
    with Image.open(io.BytesIO(EPS)) as image, pytest.raises(subprocess.CalledProcessError):
        image.load()  # Pillow itself does
    assert ghostscript.exists()
    ghostscript.unlink()
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).write_bytes(EPS)
    problems = ImageFolder(path=str(tmp_path / "data"), resolution=8).inspect()
    assert "data/" in problems[0]
    assert "its content is not one of JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM" in problems[0]
    with pytest.raises(BadImage, match=r"x\.png: it cannot be read as an image"), opened(io.BytesIO(EPS), "x.png"):
        pass
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["ICNS", "ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "MSP", "XBM", "PDF", "WMF"])
def test_other_formats_are_not_read(kind: str) -> None:
    """Each has a parser of its own, for files that no data set has."""
    out = io.BytesIO()
    image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    match kind:
        case "XBM" | "MSP":
            image.convert("1").save(out, format=kind)
        case "WMF":
            out.write(
                b"\xd7\xcd\xc6\x9a\x00\x00" + struct.pack("<4hH", 0, 0, 16, 16, 72) + bytes(6) + b"\x01\x00\t\x00"
            )
        case _:
            image.save(out, format=kind)
    with pytest.raises(BadImage, match="its content is not one of"):
        pixels(out.getvalue(), 8, "x.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_of_a_data_set_is_read(suffix: str) -> None:
    out = io.BytesIO()
    kind = Image.registered_extensions().get(suffix, "JPEG")
    image = Image.fromarray(np.full((16, 16, 3), 130, np.uint8))
    (image.convert("L") if suffix == ".pgm" else image).save(out, format=kind)
    assert abs(pixels(out.getvalue(), 8, "x").astype(int) - 130).max() <= 3


def test_a_bomb_is_an_error_with_its_file(tmp_path: Path) -> None:
    """13,000 x 13,000 is between Pillow's limit, at which it warns, and twice that, at which it raises."""
    (tmp_path / "data").mkdir()
    bomb = png(13_000, 13_000)
    assert len(bomb) < 30_000
    (tmp_path / "data/a.png").write_bytes(bomb)
    (tmp_path / "data/b.png").write_bytes(png(30_000, 30_000))
    for filters in ("error", "ignore", "default"):
        with warnings.catch_warnings():
            warnings.simplefilter(filters, append=True)  # type: ignore[arg-type]
            for name in ("a.png", "b.png"):
                words = rf"{name}: it (has 13,000 x 13,000 pixels,|cannot be read as an image:) more than 89,478,485"
                with pytest.raises(BadImage, match=words):
                    pixels((tmp_path / "data" / name).read_bytes(), 8, name)
    problems = ImageFolder(path=str(tmp_path / "data"), resolution=8).inspect()
    assert "more than 89,478,485" in problems[0]


def test_a_limit_that_others_removed_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImage, match=r"x: it has 13,000 x 13,000 pixels, more than 89,478,485"):
        pixels(png(13_000, 13_000), 8, "x")
    assert pixels(png(900, 900), 8, "x").shape == (8, 8, 3)
