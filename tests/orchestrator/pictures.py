"""Pictures in class folders, and a tiny AutoencoderKL, made by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pictures(folder: Path, classes: list[str], train: int, held_out: int = 4, size: int = 16, seed: int = 0) -> Path:
    """train/CLASS/*.png and test/CLASS/*.png: each class has a colour and a place of its own, and noise."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("test", held_out)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (size, size, 3))
                place = slice(size * label // (2 * len(classes)), size // 2 + size * label // (2 * len(classes)))
                pixels[place, place, label % 3] += 150 + rng.integers(0, 40)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number:03d}.png")
    return folder


def autoencoder(folder: Path, **fields: object) -> Path:
    """Untrained: 3 channels to 4, an eighth of a GB less than the real one; two halvings of the side."""
    from tests.nag.test_autoencoder import make

    return Path(make(folder, **fields))
