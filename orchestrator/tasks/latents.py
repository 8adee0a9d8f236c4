"""Latents: the blocks of an encode task as a data set for trainings."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nag.distributed import world
from orchestrator.errors import CorruptFile, MissingFile
from orchestrator.identity import digest
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.task import Task, shards

if TYPE_CHECKING:
    from nag.datasets.latents import LatentSplit

CHECKED_AT_ONCE = 4


class Latents:
    """The latents of an encode task as a data set. flip: include those of the flipped images."""

    stores: ClassVar[str] = "latents"

    def __init__(self, store: Store, task: Task, flip: bool) -> None:
        self.store, self.task, self.flip = store, task, flip
        arrays, record = read_block(store, task.digest, 0)
        self.shape: tuple[int, int, int] = arrays["posterior"].shape[3:]
        self.num_classes: int = record["num_classes"]

    def open(self, split: str) -> LatentSplit:
        """The training split. Each block is checked once on this machine. Raises CorruptFile after setting a damaged
        block aside, so that it is made again, and ValueError for another split than "train".
        """
        from nag.datasets.latents import LatentSplit

        if split != "train":
            raise ValueError(f"only the training images are encoded, not {split!r}")
        folder = self.store.local_copy(f"blocks/{self.task.digest}")
        numbers = shards(self.task)
        paths = [os.path.join(folder, os.path.basename(block_name(self.task.digest, number))) for number in numbers]
        rank, size, _ = world()
        start = len(paths) * rank // size  # processes that train together share the work by starting at other blocks
        blocks = [*zip(numbers, paths, strict=True)]
        with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
            list(pool.map(lambda block: self._check(*block), blocks[start:] + blocks[:start]))
        return LatentSplit(paths, self.flip)

    def _check(self, number: int, path: str) -> None:
        """Check a file against its checksum. After that, its size and modification time suffice."""
        from nag.cache import folder

        name = block_name(self.task.digest, number)
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            raise MissingFile(f"{name} is not in the store; it will be made again") from None
        checked = folder("checked") / digest([os.path.realpath(path), stat.st_size, stat.st_mtime_ns])
        if checked.exists():
            return
        try:
            record = unpack(Path(path).read_bytes())[1]
            if (record["digest"], record["number"]) != (self.task.digest, number):
                raise ValueError(f"it is block {record['number']} of {record['digest']}")
        except ValueError as error:
            self.store.remove(name)
            Path(path).unlink(missing_ok=True)  # this machine's copy
            raise CorruptFile(f"{name}: {error}; it was set aside and will be made again") from error
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()
