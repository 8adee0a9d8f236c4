"""The first samples of a cell as one picture. The same indices in every cell, so equal noise stands in equal places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.plan import PlannedCell
from orchestrator.store import Store, unpack
from orchestrator.tasks import block_name

if TYPE_CHECKING:
    import numpy as np

GRID_VERSION = 1
COLUMNS = ROWS = 8
LEAST_PX = 48  # smaller samples are enlarged, pixel by pixel


def sample_grid(store: Store, cell: PlannedCell) -> bytes:
    """A PNG of the first 64 samples. Raises FileNotFoundError or ValueError where they are not kept or not images."""
    import io

    import numpy as np
    from PIL import Image

    wanted = min(COLUMNS * ROWS, cell.cell.sample.count)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < wanted:
        parts.append(unpack(store.read(block_name(cell.stream, len(parts))))[0]["samples"])
    images = np.concatenate(parts)[:wanted]
    if images.dtype != np.uint8 or images.shape[1] not in (1, 3):
        raise ValueError("these samples are not images")
    n, channels, height, width = images.shape
    scale = max(1, -(-LEAST_PX // min(height, width)))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    gap = 2
    sheet = np.full(
        (ROWS * (height * scale + gap) + gap, COLUMNS * (width * scale + gap) + gap, channels), 255, dtype=np.uint8
    )
    for i in range(n):
        top, left = (
            gap + at * (size * scale + gap) for at, size in zip(divmod(i, COLUMNS), (height, width), strict=True)
        )
        sheet[top : top + height * scale, left : left + width * scale] = images[i].transpose(1, 2, 0)
    used = sheet[: -(-n // COLUMNS) * (height * scale + gap) + gap]
    out = io.BytesIO()
    Image.fromarray(used[..., 0] if channels == 1 else used).save(out, format="PNG")
    return out.getvalue()
