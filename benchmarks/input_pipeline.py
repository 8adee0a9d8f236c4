"""Speed of a training's input: latents drawn from shards with their noise, and images decoded from folders.

    .venv/bin/python benchmarks/input_pipeline.py [--latents 20000] [--images 500] [--batches 40]

Bound: 2,000 latents per second (4 x 32 x 32, float16 mean and std, both flips) on 2 cores. The shards were just
written, so they come from memory, not from disk. On a shared machine only orders of magnitude count.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

BATCH, SHARD, SHAPE = 256, 1000, (4, 32, 32)


def write_shards(folder: Path, count: int) -> list[str]:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    posterior = rng.random((SHARD, 2, 2, *SHAPE), dtype=np.float32).astype(np.float16)
    paths = []
    for first in range(0, count, SHARD):
        arrays = {"posterior": posterior, "labels": rng.integers(0, 1000, SHARD)}
        paths.append(str(folder / f"{first:09d}.safetensors"))
        save_file(arrays, paths[-1])
    return paths


def latents(folder: Path, count: int, batches: int) -> None:
    from nag import noise
    from nag.datasets.latents import LatentSplit
    from nag.training import Batches, Training

    started = time.perf_counter()
    split = LatentSplit(write_shards(folder, count), flip=True)
    print(f"{count:,} latents in {count // SHARD} shards written in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    split = LatentSplit(sorted(map(str, folder.glob("*.safetensors"))), flip=True)
    print(f"opened in {1000 * (time.perf_counter() - started):.0f} ms")
    place, rng = np.arange(BATCH), np.random.default_rng(1)
    picked = [rng.integers(0, len(split), BATCH) for _ in range(batches)]

    def x0(step: int) -> np.ndarray:
        return split.draw(picked[step], 0, step, place)

    def eps(step: int) -> np.ndarray:
        return noise.normal(0, place, step, SHAPE, purpose=noise.TRAIN_NOISE)

    x0(0)
    rates = {}
    started = time.perf_counter()
    for step in range(batches):
        split.images(picked[step])
    rates["means alone, one thread"] = batches * BATCH / (time.perf_counter() - started)
    started = time.perf_counter()
    for step in range(batches):
        x0(step), eps(step)
    rates["draws and the noise of training, one thread"] = batches * BATCH / (time.perf_counter() - started)
    with ThreadPoolExecutor(2) as threads:
        started = time.perf_counter()
        list(threads.map(lambda step: (x0(step), eps(step)), range(batches)))
        rates["the same, two threads"] = batches * BATCH / (time.perf_counter() - started)
    training = Batches(split, Training(steps=batches, batch=BATCH), 1000, "cpu")
    training(0)
    started = time.perf_counter()
    for step in range(batches):
        training(step)
    rates["what a training asks for (nag.training.Batches)"] = batches * BATCH / (time.perf_counter() - started)
    for what, rate in rates.items():
        print(f"{what:50s} {rate:9,.0f} latents/s (bound 2,000)")


def images(folder: Path, count: int) -> None:
    """Images with the sizes and about the entropy of photographs: smoothed noise."""
    from PIL import Image

    from nag.datasets.image_folder import ImageFolder
    from nag.datasets.prefetch import prefetch

    rng = np.random.default_rng(2)
    for i in range(count):
        place = folder / f"class{i % 10}" / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(place, quality=90)
    split = ImageFolder(path=str(folder), resolution=256).open("train")
    parts = [np.arange(first, min(first + 32, count)) for first in range(0, count, 32)]
    started = time.perf_counter()
    seen = sum(len(x) for x, _ in prefetch(split, parts))
    print(f"{'JPEGs of 500 x 375 to 256 x 256':50s} {seen / (time.perf_counter() - started):9,.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batches", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        (Path(folder) / "shards").mkdir()
        latents(Path(folder) / "shards", given.latents, given.batches)
        images(Path(folder) / "images", given.images)


if __name__ == "__main__":
    main()
