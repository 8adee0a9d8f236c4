"""The first samples of a cell as one image: the same indices in every cell, so equal places have equal noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.tasks import previews

if TYPE_CHECKING:
    from orchestrator.plan.model import StoredCell
    from orchestrator.store.store import Store

GRID_VERSION = 2
COLUMNS = ROWS = 8  # previews.COUNT in all
LEAST_PX = 48  # smaller samples are enlarged by whole factors


def sample_png(store: Store, cell: StoredCell) -> bytes:
    """A PNG of the first samples. Raises FileNotFoundError if they are not kept, ValueError if not images."""
    import io

    import numpy as np
    from PIL import Image

    images = previews.read(store, cell.stream, cell.extracts)[0][: cell.count]
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
