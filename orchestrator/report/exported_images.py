"""`nagbench export --cell`: the images of one cell, for evaluators and eyes: ADM's .npz, or a folder of PNG files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput, file_errors
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import Plan, PlannedCell, StoredCell, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.report.archive import Exported, check_whole, target_file
from orchestrator.store.store import Store
from orchestrator.tasks import extract
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.outputs import read_block

if TYPE_CHECKING:
    import numpy as np

LABELS = "dataset.json"  # EDM's form of labels, which `image_folder` reads too


@dataclass(frozen=True)
class Images:
    """The first `count` images of a cell. `labels` is (count,); `parts` gives uint8 (n, H, W, C), a block at a time."""

    count: int
    labels: np.ndarray
    parts: Callable[[], Iterator[np.ndarray]]


def export_images(
    plan: StoredPlan,
    store: Store,
    path: str | Path,
    cell: StoredCell,
    count: int | None = None,
    force: bool = False,
    device: str = "cpu",
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Exported:
    """Write the first `count` samples of a cell (all by default): to a path that ends in .npz in ADM's form, arr_0
    uint8 (N, H, W, C) and arr_1 labels; to any other as a folder of PNG files, 000000.png and so on, with their labels
    in dataset.json. tell: called with the number of images written, and of all.

    Latents are decoded as the sweep's score section says; on the kind of device that scored them, the images are
    identical. One block is in memory at a time. Raises BadInput if the path is not valid or samples are missing;
    EnvironmentProblem if something cannot be written.
    """
    to_file = Path(path).suffix == ".npz"
    target = target_file(path, f"{plan.sweep.name}.npz", force) if to_file else _new_folder(path)
    images = _images(plan, store, cell, count, device, tell)
    with file_errors(f"{target} cannot be written"):
        return _npz(target, images) if to_file else _png(target, images)


def _images(
    plan: StoredPlan,
    store: Store,
    cell: StoredCell,
    count: int | None,
    device: str,
    tell: Callable[[int, int], None],
) -> Images:
    import numpy as np

    taken, block = count or cell.count, plan.tasks[cell.stream].params["block"]
    numbers = range(-(-taken // block))
    there = Done(store).blocks(cell.stream)
    if not there >= set(numbers):
        kept = "" if plan.sweep.keep == "samples" else f" (keep: {plan.sweep.keep} removes them once they are scored)"
        raise BadInput(
            f"cell {cell.digest[:12]} has {len(there):,} blocks of {block:,} samples in the store, "
            f"{len(numbers):,} are needed{kept}. Run the sweep, or give --count."
        )
    context = Context(store, Options(device=device).here())
    decode = _decode(plan, cell, context)
    labels = [read_block(context.store, cell.stream, number)[0]["labels"] for number in numbers]

    def parts() -> Iterator[np.ndarray]:
        for number in numbers:
            source = (context, cell.stream, number)
            arrays, _ = extract.images(*source, decode) if decode else extract.stored(*source)
            yield arrays["samples"][: taken - number * block].transpose(0, 2, 3, 1)
            tell(min((number + 1) * block, taken), taken)

    return Images(taken, np.concatenate(labels)[:taken], parts)


def _npz(target: Path, images: Images) -> Exported:
    from nag.reference_statistics import write_adm

    write_adm(str(target), images.parts(), images.count, images.labels)
    check_whole(target, 2)
    return Exported(target, 1, target.stat().st_size)


def _new_folder(path: str | Path) -> Path:
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BadInput(f"{target} already exists. Give the name of a new folder, or of an .npz file.")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: the folder {target.parent} does not exist. Create it first.")
    return target


def _png(target: Path, images: Images) -> Exported:
    """A folder, whole or not at all."""
    from PIL import Image

    size, names = 0, [f"{number:06d}.png" for number in range(images.count)]
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        left = iter(names)
        for part in images.parts():
            for image in part:
                place = folder / next(left)
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(place)
                size += place.stat().st_size
        labels = [[name, int(label)] for name, label in zip(names, images.labels, strict=True)]
        (folder / LABELS).write_text(json.dumps({"labels": labels}))
        os.replace(folder, target)  # an empty folder may be there
    return Exported(target, images.count + 1, size + (target / LABELS).stat().st_size)


def _decode(plan: StoredPlan, cell: StoredCell, context: Context) -> dict[str, Any] | None:
    """The decoder of a cell's latents; None if its samples are pixels. Raises BadInput if nothing decodes them."""
    if plan.tasks[cell.stream].params["stores"] == "pixels":
        return None
    taken = [plan.tasks[extract].params.get("decode") for extract in cell.extracts]
    if scored := next(filter(None, taken), None):
        return scored
    if not isinstance(plan, Plan) or not isinstance(cell, PlannedCell):
        raise BadInput(
            f"cell {cell.digest[:12]} has latents, and no score decodes them: name the YAML file of the sweep."
        )
    decode = (plan.sweep.score.decode if plan.sweep.score else None) or cell.cell.network.autoencoder
    if decode is None:
        raise BadInput(f"cell {cell.digest[:12]} has latents; say what decodes them: score: {{decode: {{path: ...}}}}.")
    builder = TaskBuilder()
    decoder = builder.identity(decode)
    context.loaded["asset"] = {outside.content: outside.place for outside in builder.outside.values()}
    return decoder
