"""Makes the pictures of sweeps/images.yaml: four shapes in random colours, 16 x 16, a folder a class.

    python sweeps/make_images.py [FOLDER]

They are committed, so that the sweep runs at once; this says what they are. The same pixels every time.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, FINE, EACH = 16, 4, 60  # pixels per side, points per pixel and side, images per class


def picture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(16, 16, 3) uint8."""
    side = SIZE * FINE
    y, x = (np.mgrid[:side, :side] + 0.5) / FINE
    cx, cy = rng.uniform(5.5, 10.5, 2)
    r = rng.uniform(3.0, 5.5)
    distance = np.hypot(x - cx, y - cy)
    if kind == "disc":
        inside = distance < r
    elif kind == "ring":
        inside = (distance < r) & (distance > 0.55 * r)
    elif kind == "cross":
        arm = 0.3 * r
        inside = ((abs(x - cx) < arm) & (abs(y - cy) < r)) | ((abs(y - cy) < arm) & (abs(x - cx) < r))
    else:
        angle = rng.uniform(0, np.pi)
        inside = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / rng.uniform(4, 8)) > 0
    shape = inside.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))[..., None]
    dark, light = rng.uniform(10, 110, 3), rng.uniform(140, 245, 3)
    return np.round(dark + (light - dark) * shape).astype(np.uint8)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("images")
    for label, kind in enumerate(("cross", "disc", "ring", "stripes")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            pixels = picture(kind, np.random.default_rng([label, number]))
            Image.fromarray(pixels).save(folder / kind / f"{number:02d}.png", optimize=True)


if __name__ == "__main__":
    main()
