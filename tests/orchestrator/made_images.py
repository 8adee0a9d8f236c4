"""Images, statistics and networks for the tests of evaluation: all made here, all small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = """\
name: pictures
networks:
  sit:
    data: {name: image_folder, path: data, resolution: 8, held_out: 0.25}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 8, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 24, block: 8}
score: {features: [pixels], metrics: [kid]}
arms:
  plain: {}
"""


def pixels(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    """(count, size, size, 3) uint8: smooth colours, no two alike."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 255, (count, 2, 2, 3))
    t = np.linspace(0, 1, size)
    rows = corners[:, :1] * (1 - t[:, None, None]) + corners[:, 1:] * t[:, None, None]  # (count, size, 2, 3)
    return np.round(rows[:, :, :1] * (1 - t[:, None]) + rows[:, :, 1:] * t[:, None]).astype(np.uint8)


def picture_folder(folder: Path, classes: tuple[str, ...] = ("a", "b"), each: int = 16, size: int = 8) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(pixels(each, size, seed=label)):
            Image.fromarray(image).save(folder / name / f"{number:02d}.png")
    return folder


def written(folder: Path, text: str = FOLDER, *changes: str, name: str = "sweep.yaml") -> Path:
    """A sweep as a file, with replacements: `written(folder, FOLDER, old, new, old, new)`."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(axis=0, dtype=np.float64), np.cov(rows.astype(np.float64), rowvar=False)


def low_rank_distance(x: np.ndarray, r: np.ndarray) -> float:
    """The Fréchet distance of few rows in many dimensions: the trace of the root is the nuclear norm of X_c R_c^T."""
    x, r = x.astype(np.float64), r.astype(np.float64)
    (n, m), (mx, mr) = (len(x) - 1, len(r) - 1), (x.mean(axis=0), r.mean(axis=0))
    xc, rc = (x - mx) / n**0.5, (r - mr) / m**0.5
    trace = np.linalg.svd(xc @ rc.T, compute_uv=False).sum()
    return float(((mx - mr) ** 2).sum() + (xc**2).sum() + (rc**2).sum() - 2 * trace)


def adm_file(path: Path, images: np.ndarray, outputs: dict[str, np.ndarray] | None, with_images: bool = True) -> Path:
    """An .npz file as ADM publishes it: images, and the moments of features and spatial features."""
    arrays: dict[str, Any] = {"arr_0": images} if with_images else {}
    for output, names in (("features", ("mu", "sigma")), ("spatial", ("mu_s", "sigma_s"))):
        if outputs and output in outputs:
            arrays |= dict(zip(names, moments(outputs[output]), strict=True))
    np.savez(path, **arrays)
    return path
