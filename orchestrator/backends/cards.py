"""The GPUs of this machine, and which worker process gets which."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"


def cards(device: str, environ: Mapping[str, str] = os.environ, folder: str = "/dev") -> tuple[str, ...]:
    """The cards that workers of this `--device` can use, as CUDA_VISIBLE_DEVICES names them; none without a GPU, or if
    the device is another one. One that is named alone, such as cuda:1, is one card. torch is not imported.
    """
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        return ()
    if device == "auto" and not _torch_has_cuda():  # workers then compute on the CPU
        return ()
    if VISIBLE in environ:
        every = [name.strip() for name in environ[VISIBLE].split(",")]
        hidden = next((i for i, name in enumerate(every) if name in ("", "-1", "NoDevFiles")), len(every))
        every = every[:hidden]  # CUDA stops at the first that is not valid
    else:
        count = sum(bool(re.fullmatch(r"nvidia\d+", place.name)) for place in Path(folder).glob("nvidia*"))
        every = [str(number) for number in range(count)]
    _, named, index = device.partition(":")
    return tuple(every[int(index) : int(index) + 1] if named else every)


@functools.cache
def _torch_has_cuda() -> bool:
    """Whether torch was built for GPUs, as its own version file says."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        text = Path(found.origin).with_name("version.py").read_text()
    except OSError:
        return False
    return re.search(r"^(cuda|hip)\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def default_workers(device: str, per_gpu: int = 1) -> int:
    """`per_gpu` a card; without cards one a core."""
    return len(cards(device)) * per_gpu or len(os.sched_getaffinity(0))


def least_used(every: Sequence[str], used: Iterable[str]) -> str:
    """The card with the fewest workers, the first of several."""
    counted = Counter(used)
    return min(every, key=lambda card: counted[card])


def visible(card: str, every: Sequence[str], processes: int) -> str:
    """CUDA_VISIBLE_DEVICES of a worker: its own card; where several processes train together, those that follow too."""
    place = every.index(card)
    return ",".join([*every[place:], *every[:place]][: max(1, processes)])


def mapping(every: Sequence[str]) -> str:
    """`worker 1 on card 0, worker 2 on card 1`"""
    return ", ".join(f"worker {number} on card {card}" for number, card in enumerate(every, 1))
