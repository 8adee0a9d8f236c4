"""reference: one extractor's outputs on the images that samples are compared with, and their moments.

The images are a data set's training split, against which cells are scored, and its held-out split; or those in a
published file of statistics. Moments are float64 and of all images, or of the first `images`. Rows, for metrics that
compare single images, are kept of the first images (a split is shuffled), in files of PART rows per output. If the
training images are also encoded, their outputs come from that pass over them: as blocks of an extract task among the
inputs.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.metrics.metric import by_rows
from orchestrator.errors import NotFinite
from orchestrator.spec.model import REFERENCE_ROWS
from orchestrator.spec.score_section import compared
from orchestrator.store.arrays import pack, unpack
from orchestrator.store.layout import block_name, file_name, record_name
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import not_finite, read_block, read_output
from orchestrator.tasks.task import Kind, Task, shards

if TYPE_CHECKING:
    import numpy as np

PART = 8192  # rows; equal to nag.metrics.moments.ROWS, so that the moments are those of all rows in one array
MOMENTS = "moments.safetensors"
WIDEST = 8192  # columns; of more, a covariance takes over half a GB
SPLITS = ("train", "held_out")

Outputs = dict[str, "np.ndarray"]  # of an extractor on some images, by name, and their labels


class Images(NamedTuple):
    """Consecutive images: pixels uint8 (n, C, H, W) and labels (n,)."""

    pixels: np.ndarray
    labels: np.ndarray


def run(context: Context, task: Task) -> None:
    from nag.datasets.dataset import skipped

    started = time.time()
    files = _Files(context, task)
    if "statistics" in task.params:
        _published(context, task, files)
    else:
        data = context.rebuild("datasets", task.params["data"])
        splits = {name: data.open(name) for name in (SPLITS[:1] if files.rows_only else SPLITS)}
        sizes = {name: _size(split) for name, split in splits.items()}
        most = task.params["rows"] if files.rows_only else task.params.get("images")
        if most is not None:
            sizes = {name: min(size, most) for name, size in sizes.items()}
        files.total = sum(sizes.values())
        for name, split in splits.items():
            extract = _extracted_while_encoded(context, task) if name == "train" else None
            if extract is None:
                images = _images_of(context, split, sizes[name])
                files.add(name, sizes[name], files.extracted(images, partial(_image_name, data, split)))
            else:
                files.add(name, sizes[name], _first(sizes[name], _from_blocks(context, extract, files.skipped)))
            files.skipped |= skipped(split)
    if files.moments:
        files.publish(MOMENTS, files.moments)
    record = {"sizes": files.sizes, "rows": files.rows, "skipped": files.skipped}
    record |= {"moments": sorted(files.moments), "outputs": sorted(files.outputs)}
    finish(context, task, files, record, started)


def _size(split: Any) -> int:
    from nag.datasets.dataset import originals

    return originals(split)


def _extracted_while_encoded(context: Context, task: Task) -> Task | None:
    """The extract task among the inputs, if the store has all of its blocks: its outputs on all training images."""
    for extract in (context.task(source) for source in task.inputs):
        if extract.kind == "extract":
            names = [block_name(extract.digest, number) for number in shards(context.task(extract.stream))]
            return extract if all(map(context.store.exists, names)) else None
    return None


def _from_blocks(context: Context, extract: Task, skipped: dict[str, str]) -> Iterator[Outputs]:
    """The outputs in the blocks of a task, cut where parts end. Adds the images that were not readable to `skipped`."""
    first = 0
    for number in shards(context.task(extract.stream)):
        arrays, record = read_block(context.store, extract.digest, number)
        skipped |= record["sampled"].get("skipped", {})
        size = len(arrays["labels"])
        for start, end in itertools.pairwise(sorted({0, *range(-first % PART, size, PART), size})):
            yield {output: rows[start:end] for output, rows in arrays.items()}
        first += size


def _first(count: int, pieces: Iterable[Outputs]) -> Iterator[Outputs]:
    """The outputs of the first `count` images."""
    for piece in pieces:
        if count <= 0:
            return
        yield {output: rows[:count] for output, rows in piece.items()}
        count -= len(piece["labels"])


def _images_of(context: Context, split: Any, size: int) -> Iterator[Images]:
    """The images of a split without flips, in order, in micro-batches that are cut where parts end."""
    import numpy as np

    from nag.datasets.dataset import to_uint8
    from nag.datasets.prefetch import prefetch

    for images, labels in prefetch(split, (np.arange(*piece) for piece in _pieces(context, size))):
        yield Images(to_uint8(images), labels)


def _pieces(context: Context, size: int) -> Iterator[tuple[int, int]]:
    for part in range(0, size, PART):
        end = min(part + PART, size)
        for first in range(part, end, context.options.micro_batch):
            yield first, min(first + context.options.micro_batch, end)


def _published(context: Context, task: Task, files: _Files) -> None:
    """Add what a file like those of ADM and clean-fid has: moments, if they are of this extractor, and images."""
    import numpy as np

    from nag.reference_statistics import read_statistics, reference_images

    path = context.asset(task.params["statistics"])
    if task.params["moments"]:
        dims = {name: rows.shape[1] for name, rows in files.outputs_of(np.zeros((1, 3, 64, 64), np.uint8)).items()}
        moments = read_statistics(path, dims)
        for output in task.params["moments"]:
            mean, cov = moments[output].mean, moments[output].cov
            files.moments |= {_moment_name("mean", output): mean, _moment_name("cov", output): cov}
    images = reference_images(path)
    if images is None:
        return
    images = images[: task.params.get("images")]
    pieces = _pieces(context, len(images))
    none = np.zeros(PART, np.int64)
    files.total = len(images)
    parts = (Images(np.ascontiguousarray(images[a:b].transpose(0, 3, 1, 2)), none[: b - a]) for a, b in pieces)
    files.add("train", len(images), files.extracted(parts, lambda i: f"row {i} of arr_0 of {path}"))


def _image_name(data: Any, split: Any, i: int) -> str:
    if hasattr(split, "name"):
        return split.name(i)
    return f"image {i} of {type(data).__name__}"


def _moment_name(what: str, output: str) -> str:
    """The name under which metrics look up a moment."""
    return what if output == "features" else f"{what}_{output}"


class _Files(Mapping[str, bytes]):
    """The files of a reference. Each is published once it is complete; they are read back one at a time."""

    def __init__(self, context: Context, task: Task) -> None:
        self.context, self.task = context, task
        self.names: list[str] = []
        self.moments: dict[str, np.ndarray] = {}
        self.outputs: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.skipped: dict[str, str] = {}  # images that could not be read, by name, and why
        self.total = self.seen = 0
        self.rows_only = task.params.get("only") == "rows"  # these images are scored: their moments are not needed

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

    def extracted(self, images: Iterable[Images], name: Callable[[int], str]) -> Iterator[Outputs]:
        """The extractor's outputs. Raises NotFinite, with the name of the image, if one is not finite."""
        first = 0
        for pixels, labels in images:
            outputs = self.outputs_of(pixels)
            if bad := not_finite(outputs):
                output, row, count = bad
                more = f" (and {count - 1} more of {len(labels)})" if count > 1 else ""
                extractor = self.task.params["extractor"]["name"]
                raise NotFinite(f"{extractor} gives {output} that are not finite for {name(first + row)}{more}")
            yield outputs | {"labels": labels}
            first += len(labels)

    def add(self, split: str, size: int, outputs: Iterator[Outputs]) -> None:
        """Publish the rows of a split, and take the moments of all of its images."""
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
                self.moments |= {_moment_name("mean", name): seen.mean, _moment_name("cov", name): seen.cov}

    def _moments(self, moments: dict[str, Any], split: str, output: str, rows: np.ndarray) -> None:
        """Add rows to the moments of an output, unless a published file has them."""
        from nag.metrics.moments import Moments

        if output == "labels":
            return
        self.outputs.add(output)
        if self.rows_only:
            return
        named = output if split == "train" else split if output == "features" else f"{split}_{output}"
        known = _moment_name("mean", named) in self.moments
        if known or output == "logits" or rows.ndim != 2 or rows.shape[1] > WIDEST:
            return
        moments.setdefault(named, Moments(rows.shape[1])).add(rows)


def part_name(split: str, output: str, first: int) -> str:
    return f"{split}.{output}.{first // PART:04d}.safetensors"


class ReferenceArrays(Mapping[str, Any]):
    """The arrays of a reference as metrics take them, each read when first used: outputs of the split by name, moments
    by their names in MOMENTS, and "held_out", the features of the held-out images.
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
        """Where its images come from, for messages: the name of a published file, or the path of a data set."""
        if "statistics" in self.task.params:
            return os.path.basename(self.context.asset(self.task.params["statistics"]))
        data = self.task.params["data"]
        paths = (self.context.places.get(value) for value in data["fields"].values() if isinstance(value, str))
        return next(filter(None, paths), data["name"])

    def size_for(self, metric: Any) -> int | None:
        """How many images a metric compares with; None if only their moments are published, or it needs none.

        A Fréchet distance uses moments, which are of all images; the other metrics compare rows.
        """
        needs = compared(metric)
        if not needs:
            return None
        against = metric.against or "train"
        if by_rows(metric):
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
        whole = None
        for place, part in enumerate(parts):
            rows = self._file(part)[output]
            if whole is None:
                whole = np.empty((self.record["rows"][split], *rows.shape[1:]), rows.dtype)
            whole[place * PART : place * PART + len(rows)] = rows
        return whole


KIND = Kind(version=3, run=run, guess_s=lambda task, costs: 300.0, column="references")
