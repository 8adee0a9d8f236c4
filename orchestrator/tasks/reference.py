"""reference: one extractor's outputs on the images that samples are held against, and their moments.

The images are a data set's training split, which is scored against, with the held-out one beside it; or what a
published file of statistics has. Moments are float64 and of all images; rows, for what compares images one by one, are
kept of the first ones (a split is shuffled), in files of PART rows for each output. Where the training images are also
encoded, their outputs were taken in that pass, as blocks of an extract task among the inputs.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.errors import NotFinite
from orchestrator.spec.model import REFERENCE_ROWS
from orchestrator.store.arrays import pack, unpack
from orchestrator.store.layout import block_name, file_name, record_name
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import not_finite, read_block, read_output
from orchestrator.tasks.task import Kind, Task, shards

if TYPE_CHECKING:
    import numpy as np

PART = 8192  # rows; equal to nag.metrics.moments.ROWS, so that the moments are those of all rows in one array
MOMENTS = "moments.safetensors"
WIDEST = 8192  # beyond it a covariance has over half a GB
SPLITS = ("train", "held_out")

Outputs = dict[str, "np.ndarray"]  # of some images, by name, with their labels


class Images(NamedTuple):
    """uint8 (n, C, H, W) and labels of consecutive images, and where they are from, for messages."""

    pixels: np.ndarray
    labels: np.ndarray


def run(context: Context, task: Task) -> None:
    started = time.time()
    made = _Made(context, task)
    if "statistics" in task.params:
        _published(context, task, made)
    else:
        data = context.rebuild("datasets", task.params["data"])
        splits = {name: data.open(name) for name in (SPLITS[:1] if made.rows_only else SPLITS)}
        sizes = {name: _size(split) for name, split in splits.items()}
        if made.rows_only:  # images that are scored, so nothing is held against their moments
            sizes = {name: min(size, task.params["rows"]) for name, size in sizes.items()}
        made.total = sum(sizes.values())
        for name, split in splits.items():
            taken = _taken_before(context, task) if name == "train" else None
            if taken is None:
                images = _of_split(context, split, sizes[name])
                made.add(name, sizes[name], made.looked_at(images, partial(_named_image, data, split)))
            else:
                made.add(name, sizes[name], _of_blocks(context, taken, made.skipped))
            made.skipped |= getattr(split, "skipped", {})
    if made.moments:
        made.publish(MOMENTS, made.moments)
    record = {"sizes": made.sizes, "rows": made.rows, "moments": sorted(made.moments), "outputs": sorted(made.outputs)}
    finish(context, task, made, {**record, "skipped": made.skipped}, started)


def _size(split: Any) -> int:
    from nag.datasets.dataset import originals

    return originals(split)


def _taken_before(context: Context, task: Task) -> Task | None:
    """The extract task among the inputs whose blocks have the outputs on all training images, if they are there."""
    for made in (context.task(source) for source in task.inputs):
        if made.kind == "extract":
            names = [block_name(made.digest, number) for number in shards(context.task(made.params["stream"]))]
            return made if all(map(context.store.exists, names)) else None
    return None


def _of_blocks(context: Context, taken: Task, skipped: dict[str, str]) -> Iterator[Outputs]:
    """The outputs in blocks, in pieces that end where a part ends; what could not be read is added to `skipped`."""
    first = 0
    for number in shards(context.task(taken.params["stream"])):
        arrays, record = read_block(context.store, taken.digest, number)
        skipped |= record["sampled"].get("skipped", {})
        size = len(arrays["labels"])
        for start, end in itertools.pairwise(sorted({0, *range(-first % PART, size, PART), size})):
            yield {output: rows[start:end] for output, rows in arrays.items()}
        first += size


def _of_split(context: Context, split: Any, size: int) -> Iterator[Images]:
    """The images of a split but for flips, in order, in micro-batches that end where a part ends."""
    import numpy as np

    from nag.datasets.dataset import to_uint8
    from nag.datasets.prefetch import read_ahead

    for images, labels in read_ahead(split, (np.arange(*piece) for piece in _pieces(context, size))):
        yield Images(to_uint8(images), labels)


def _pieces(context: Context, size: int) -> Iterator[tuple[int, int]]:
    for part in range(0, size, PART):
        end = min(part + PART, size)
        for first in range(part, end, context.options.micro_batch):
            yield first, min(first + context.options.micro_batch, end)


def _published(context: Context, task: Task, made: _Made) -> None:
    """What ADM's and clean-fid's files hold: moments, where they are of this very extractor, and images."""
    import numpy as np

    from nag.reference_statistics import read_statistics, reference_images

    path = context.asset(task.params["statistics"])
    if task.params["moments"]:
        dims = {name: rows.shape[1] for name, rows in made.outputs_of(np.zeros((1, 3, 64, 64), np.uint8)).items()}
        found = read_statistics(path, dims)
        for output in task.params["moments"]:
            made.moments |= {_named("mean", output): found[output].mean, _named("cov", output): found[output].cov}
    images = reference_images(path)
    if images is None:
        return
    pieces = _pieces(context, len(images))
    none = np.zeros(PART, np.int64)
    made.total = len(images)
    parts = (Images(np.ascontiguousarray(images[a:b].transpose(0, 3, 1, 2)), none[: b - a]) for a, b in pieces)
    made.add("train", len(images), made.looked_at(parts, lambda i: f"row {i} of arr_0 of {path}"))


def _named_image(data: Any, split: Any, i: int) -> str:
    if hasattr(split, "name"):
        return split.name(i)
    return f"image {i} of {type(data).__name__}"


def _named(what: str, output: str) -> str:
    """The name of a moment, as metrics look for it."""
    return what if output == "features" else f"{what}_{output}"


class _Made(Mapping[str, bytes]):
    """The files of a reference, which are published as they are made and read back one at a time."""

    def __init__(self, context: Context, task: Task) -> None:
        self.context, self.task = context, task
        self.names: list[str] = []
        self.moments: dict[str, np.ndarray] = {}
        self.outputs: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.skipped: dict[str, str] = {}  # images that could not be read, by name, and what was wrong with them
        self.total = self.seen = 0
        self.rows_only = task.params.get("only") == "rows"

    def __getitem__(self, name: str) -> bytes:
        return self.context.store.read(file_name(self.task.digest, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def publish(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        path, data = file_name(self.task.digest, name), pack(arrays, {})
        if not self.context.store.create(path, data) and self.context.store.read(path) != data:
            self.context.store.remove(path)
            self.context.store.create(path, data)
        self.names.append(name)

    def outputs_of(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        given = self.context.extractor(self.task.params)(torch.from_numpy(pixels).to(self.context.options.device))
        return {name: tensor.cpu().numpy() for name, tensor in given.items()}

    def looked_at(self, images: Iterable[Images], name: Callable[[int], str]) -> Iterator[Outputs]:
        """Raises NotFinite, with the image by its name, where an output is not finite."""
        first = 0
        for pixels, labels in images:
            outputs = self.outputs_of(pixels)
            if found := not_finite(outputs):
                output, row, count = found
                more = f" (and {count - 1} more of {len(labels)})" if count > 1 else ""
                extractor = self.task.params["extractor"]["name"]
                raise NotFinite(f"{extractor} gives {output} that are not finite for {name(first + row)}{more}")
            yield outputs | {"labels": labels}
            first += len(labels)

    def add(self, split: str, size: int, outputs: Iterator[Outputs]) -> None:
        """Rows and moments of all images of a split."""
        import numpy as np

        self.sizes[split], kept = size, min(size, self.task.params.get("rows", REFERENCE_ROWS))
        self.rows[split] = kept
        moments: dict[str, Any] = {}
        parts: list[Outputs] = []
        done = 0
        for piece in outputs:
            parts.append(piece)
            done += len(piece["labels"])
            self.seen += len(piece["labels"])
            self.context.tell(self.task.digest, self.seen, self.total)
            if done % PART and done < size:
                continue
            first = (done - 1) // PART * PART
            for name in parts[0]:
                whole = np.concatenate([part[name] for part in parts])
                self._moments(moments, split, name, whole)
                if first < kept:
                    self.publish(part_name(split, name, first), {name: whole[: kept - first]})
            parts.clear()
        for name, seen in moments.items():
            if seen.n > 1:
                self.moments |= {_named("mean", name): seen.mean, _named("cov", name): seen.cov}

    def _moments(self, found: dict[str, Any], split: str, output: str, rows: np.ndarray) -> None:
        """Add a part to the moments of an output that are not known from elsewhere."""
        from nag.metrics.moments import Moments

        if output == "labels":
            return
        self.outputs.add(output)
        if self.rows_only:
            return
        named = output if split == "train" else split if output == "features" else f"{split}_{output}"
        if output == "logits" or rows.ndim != 2 or rows.shape[1] > WIDEST or _named("mean", named) in self.moments:
            return
        found.setdefault(named, Moments(rows.shape[1])).add(rows)


def part_name(split: str, output: str, first: int) -> str:
    return f"{split}.{output}.{first // PART:04d}.safetensors"


class ReferenceArrays(Mapping[str, Any]):
    """The arrays of a reference as metrics take them, each read when it is first asked for.

    Outputs by their names, of the held-out split "held_out" (its features); moments as they are called in MOMENTS.
    """

    def __init__(self, context: Context, digest: str, split: str = "train") -> None:
        self.context, self.digest, self.task = context, digest, context.task(digest)
        self.record = context.store.read_record(record_name("reference", digest))
        self.split = split
        outputs = self.record["outputs"] if self.record["rows"].get(split) else []
        self.sources = {name: (split, name) for name in (*outputs, *(["labels"] if outputs else []))}
        if split == "train" and self.record["rows"].get("held_out"):
            self.sources["held_out"] = ("held_out", "features")

    @property
    def source(self) -> str:
        """What it is made of, for messages: the name of a published file, or where a data set lies."""
        if "statistics" in self.task.params:
            return os.path.basename(self.context.asset(self.task.params["statistics"]))
        data = self.task.params["data"]
        found = (self.context.places.get(value) for value in data["fields"].values() if isinstance(value, str))
        return next(filter(None, found), data["name"])

    def size_for(self, metric: Any) -> int | None:
        """How many images a metric is held against; None where only their moments are published, or none are needed.

        A Fréchet distance needs moments, which are of all images; the others compare rows.
        """
        needs = metric.needs - {"labels", "logits"}
        if not needs:
            return None
        against = getattr(metric, "against", "train")
        if not metric.extrapolates:
            return self.record["rows"].get(against)
        return None if needs & set(self.task.params.get("moments", ())) else self.record["sizes"].get(against)

    def __getitem__(self, name: str) -> Any:
        if name in self.sources:
            return self.context.load("reference", f"{self.digest} {self.split} {name}", lambda: self._rows(name))
        if self.split == "train" and name in self.record["moments"]:
            return self.context.load("reference", f"{self.digest} moments", lambda: self._file(MOMENTS))[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in self.sources or (self.split == "train" and name in self.record["moments"])

    def __iter__(self) -> Iterator[str]:
        yield from self.sources
        yield from self.record["moments"] if self.split == "train" else ()

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _file(self, name: str) -> dict[str, Any]:
        return unpack(read_output(self.context.store, "reference", self.digest, name))[0]

    def _rows(self, name: str) -> Any:
        import numpy as np

        split, output = self.sources[name]
        parts = [part_name(split, output, first) for first in range(0, self.record["rows"][split], PART)]
        found = None
        for place, part in enumerate(parts):
            rows = self._file(part)[output]
            if found is None:
                found = np.empty((self.record["rows"][split], *rows.shape[1:]), rows.dtype)
            found[place * PART : place * PART + len(rows)] = rows
        return found


KIND = Kind(version=3, run=run, guess_s=lambda task, costs: 300.0, column="references")
