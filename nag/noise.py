"""Random numbers that belong to a sample: a pure function of (seed, index, draw, purpose), the same on any machine.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), written here because library
streams change between versions. The key is the seed; the counter is (block of four words, draw, index, index and
purpose). So a sample's numbers depend neither on its batch nor on the order of draws, workers or GPUs.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

# Purposes: each is a separate stream. Stored results depend on these values.
SAMPLE, LABEL, TRAIN_NOISE, TRAIN_LEVEL, TRAIN_NULL_NOISE, TRAIN_NULL_CLASS, DATA_ORDER, WEIGHTS = range(8)
MEASURE, POSTERIOR, REPLICATE, HALVES, DIRECTIONS, BOOTSTRAP = 8, 9, 10, 11, 12, 13
OTHER_CLASS, EMBEDDED_LEVEL, TRAIN_PERTURBATION, TRAIN_LEVEL_ERROR = 20, 21, 22, 23

LABEL_RULES = ("uniform", "balanced")

Words = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_CHUNK = 1 << 15  # blocks at a time, which bounds the memory


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10: counter (4, ...) of 32-bit words held in uint64, key two 32-bit words. Overwrites the counter."""
    c0, c1, c2, c3 = counter
    p, q = np.empty_like(c0), np.empty_like(c0)
    for i in range(10):
        k0, k1 = (np.uint64((k + i * step) & 0xFFFFFFFF) for k, step in zip(key, _KEY_STEPS, strict=True))
        np.multiply(c0, _MULTIPLIERS[0], out=p)
        np.multiply(c2, _MULTIPLIERS[1], out=q)
        np.right_shift(q, _HALF, out=c0)
        c0 ^= c1
        c0 ^= k0
        np.right_shift(p, _HALF, out=c2)
        c2 ^= c3
        c2 ^= k1
        np.bitwise_and(q, _LOW, out=c1)
        np.bitwise_and(p, _LOW, out=c3)
    return counter


def normal(
    seed: int, indices: npt.ArrayLike, draw: int, shape: tuple[int, ...], purpose: int = SAMPLE
) -> npt.NDArray[np.float32]:
    """Standard normal numbers, (N, *shape) float32, for samples `indices` (N,): Box-Muller in float64, then rounded.

    seed in [0, 2**64), indices in [0, 2**56), draw in [0, 2**32); else ValueError.
    """
    size = math.prod(shape)
    count, blocks = np.size(indices), -(-size // 4)
    out = np.empty((count, blocks, 4), np.float32)
    for rows, columns, words in _words(seed, indices, draw, purpose, blocks):
        for j in (0, 2):
            radius = words[j] + 0.5  # 32 bits in (0, 2**32): the logarithm is finite, no value is beyond 6.8
            radius *= 2.0**-32
            np.log(radius, out=radius)
            radius *= -2.0
            np.sqrt(radius, out=radius)
            angle = words[j + 1] + 0.5
            angle *= math.tau * 2.0**-32
            np.multiply(radius, np.cos(angle), out=out[rows, columns, j], casting="same_kind")
            np.multiply(radius, np.sin(angle, out=angle), out=out[rows, columns, j + 1], casting="same_kind")
    return np.ascontiguousarray(out.reshape(count, 4 * blocks)[:, :size]).reshape(count, *shape)


def uniform(
    seed: int, indices: npt.ArrayLike, draw: int, shape: tuple[int, ...] = (), purpose: int = SAMPLE
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits, (N, *shape) float64. Ranges and errors as `normal`."""
    size = math.prod(shape)
    count, blocks = np.size(indices), -(-size // 2)
    out = np.empty((count, blocks, 2), np.float64)
    for rows, columns, words in _words(seed, indices, draw, purpose, blocks):
        for j in (0, 1):
            high, low = words[2 * j] >> np.uint64(5), words[2 * j + 1] >> np.uint64(6)
            out[rows, columns, j] = (high * 2.0**26 + low) * 2.0**-53
    return np.ascontiguousarray(out.reshape(count, 2 * blocks)[:, :size]).reshape(count, *shape)


def integers(seed: int, indices: npt.ArrayLike, draw: int, high: int, purpose: int = SAMPLE) -> npt.NDArray[np.int64]:
    """Whole numbers in [0, high), (N,) int64; high in [1, 2**32], so no value is favoured by more than 2**-21."""
    if not 1 <= high <= 1 << 32:
        raise ValueError(f"high must be in [1, 2**32], got {high}")
    return (uniform(seed, indices, draw, (), purpose) * high).astype(np.int64)


def permutation(seed: int, epoch: int, n: int, purpose: int = DATA_ORDER) -> npt.NDArray[np.int64]:
    """The order in which epoch `epoch` visits n items, (n,) int64: random 64-bit keys, sorted."""
    keys = np.empty((-(-n // 2), 2), np.uint64)
    for _, columns, words in _words(seed, [0], epoch, purpose, len(keys)):
        for j in (0, 1):
            keys[columns, j] = (words[2 * j] << _HALF | words[2 * j + 1])[0]
    return np.argsort(keys.reshape(-1)[:n], kind="stable").astype(np.int64, copy=False)


def parts(n: int, count: int) -> list[npt.NDArray[np.int64]]:
    """The rows 0 .. n - 1 in `count` random parts, equal but for one row, each ascending: the same for every n samples.

    Metrics split samples by it. Runs of neighbours would differ in their classes wherever labels take turns or images
    are sorted, and so would a distance of one part from a distance of the other.
    """
    order = permutation(0, 0, n, HALVES)
    return [np.sort(order[i * n // count : (i + 1) * n // count]) for i in range(count)]


def replicate(seed: int, training: Sequence[int]) -> int:
    """The seed, in [0, 2**64), of the samples of a network with these training seeds, own one first, then its parent's.

    Trainings are replicates only if their samples are independent too: each draws from noise and labels of its own,
    which all methods share that sample from it. An inherited seed counts once and a last one of 0 not at all, so that a
    fine-tuned network shares noise with its parent, and a checkpoint (no seeds) with a training of seed 0: both have
    that of `seed` itself.
    """
    distinct = [s for s, _ in itertools.groupby(training)]
    while distinct and distinct[-1] == 0:
        distinct.pop()
    derived = _within("seed", seed, 64)
    for place, value in enumerate(distinct):
        value = _within("training seed", value, 64)
        words = (value & 0xFFFFFFFF, value >> 32, place, REPLICATE << 24)
        out = philox(np.array(words, np.uint64).reshape(4, 1), (derived & 0xFFFFFFFF, derived >> 32))
        derived = int(out[0, 0]) | int(out[1, 0]) << 32
    return derived


def labels(seed: int, indices: npt.ArrayLike, num_classes: int, rule: str = "uniform") -> npt.NDArray[np.int64]:
    """Class labels of samples `indices`, (N,) int64 in [0, num_classes): "uniform" (drawn) or "balanced" (in turn)."""
    if rule == "uniform":
        return integers(seed, indices, 0, num_classes, LABEL)
    if rule == "balanced":
        return (_checked_indices(indices) % np.uint64(num_classes)).astype(np.int64)
    raise ValueError(f"unknown label rule {rule!r}; known: {', '.join(LABEL_RULES)}")


def spread(
    seed: int, indices: npt.ArrayLike, draw: int, shape: tuple[int, ...], purpose: int = SAMPLE
) -> npt.NDArray[np.float32]:
    """`normal`, drawn by several threads, each a part of the samples: numpy computes without Python's lock."""
    index = np.asarray(indices)
    threads, pool = _cores(), _threads()
    edges = [len(index) * i // threads for i in range(threads + 1)]
    runs = [pool.submit(normal, seed, index[a:b], draw, shape, purpose) for a, b in itertools.pairwise(edges) if a < b]
    return np.concatenate([run.result() for run in runs]) if runs else normal(seed, index, draw, shape, purpose)


AHEAD = 3  # draws that are made while a device works


@dataclass(frozen=True, eq=False)
class Noise:
    """The draws of samples `indices`: `noise(0)` is the initial state, `noise(k)` the draw of solver step k.

    From the first step on threads prefetch the next AHEAD draws while the device works; on the CPU only with
    `prefetch`.
    """

    seed: int
    indices: npt.ArrayLike  # (N,)
    shape: tuple[int, ...]  # (C, H, W)
    device: str | torch.device = "cpu"
    prefetch: bool | None = None
    _made: dict[int, Future[torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, k: int) -> torch.Tensor:
        """(N, *shape) float32 on `device`, made on the CPU."""
        import torch

        on_cpu = torch.device(self.device).type == "cpu"
        made = self._made.pop(k, None)
        draw = (self._draw(k) if on_cpu else self._spread(k)) if made is None else made.result()
        if k and (not on_cpu if self.prefetch is None else self.prefetch):
            for ahead in range(k + 1, k + 1 + AHEAD):
                if ahead not in self._made:
                    self._made[ahead] = _conductor().submit(self._spread, ahead)
        return draw.to(self.device, non_blocking=draw.is_pinned()) if not on_cpu else draw

    def _draw(self, k: int) -> torch.Tensor:
        import torch

        return torch.from_numpy(normal(self.seed, self.indices, k, self.shape))

    def _spread(self, k: int) -> torch.Tensor:
        """The same numbers from several threads; pinned for a GPU, so that the copy waits for nothing."""
        import torch

        draw = torch.from_numpy(spread(self.seed, self.indices, k, self.shape))
        return draw.pin_memory() if torch.device(self.device).type == "cuda" else draw


def _cores() -> int:
    """Threads that draw: the cores of this process, all but one, which keeps the device busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, THREADS_AT_MOST))


THREADS_AT_MOST = 16


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="noise")


@functools.cache
def _conductor() -> ThreadPoolExecutor:
    """Waits for the threads of one draw after another: it must not be one of them."""
    return ThreadPoolExecutor(1, thread_name_prefix="noise ahead")


def _words(
    seed: int, indices: npt.ArrayLike, draw: int, purpose: int, blocks: int
) -> Iterator[tuple[slice, slice, Words]]:
    """Blocks 0 .. blocks - 1 of every sample, a part at a time: rows, columns, words (4, rows, columns)."""
    seed = _within("seed", seed, 64)
    draw = _within("draw", draw, 32)
    purpose = _within("purpose", purpose, 8)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    index = _checked_indices(indices)[:, None]
    width = max(1, min(blocks, _CHUNK))
    height = max(1, _CHUNK // width)
    for top in range(0, len(index), height):
        for left in range(0, blocks, width):
            rows, columns = slice(top, top + height), slice(left, min(left + width, blocks))
            part = index[rows]
            counter = np.empty((4, len(part), columns.stop - left), np.uint64)
            counter[0] = np.arange(left, columns.stop, dtype=np.uint64)
            counter[1] = draw
            counter[2] = part & _LOW
            counter[3] = part >> _HALF | np.uint64(purpose << 24)
            yield rows, columns, philox(counter, key)


def _within(name: str, value: int, bits: int) -> int:
    value = operator.index(value)
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} must be in [0, 2**{bits}), got {value}")
    return value


def _checked_indices(indices: npt.ArrayLike) -> Words:
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"indices must be whole numbers of shape (N,), got {array.dtype} of shape {array.shape}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 1 << 56:
        raise ValueError(f"indices must be in [0, 2**56), got {array.min()} to {array.max()}")
    return array.astype(np.uint64)
