"""Folders of small images for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def fill(root: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """Folders with so many 8x8 images each."""
    for number, (name, count) in enumerate(classes.items()):
        for i in range(count):
            save(noise_image(seed + 1000 * number + i), root / name / f"{i:03d}.png")
    return root
