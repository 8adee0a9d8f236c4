"""Cost from images to the moments of an FID, compared with clean-fid on the same network.

    .venv/bin/python benchmarks/features.py [images]

The network is that of the tests: Inception's interface with random weights and a small part of its cost, so that the
other costs show. One thread per side, CPU seconds; every ratio is the median over rounds in which both sides have a
turn, and only ratios count on a shared machine. The distance itself is left out on both sides (clean-fid's takes many
times ours at 2,048 dimensions); covariances are included.
Bounds: in memory, at least as fast as clean-fid's own loop at 256x256, at most 1.2 times its memory; end to end,
without the networks, at most 40 % of "PNG files, then one npz, then clean-fid on the folder" as in SiT and DiT.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from nag.datasets.dataset import to_uint8  # noqa: E402
from nag.features.inception import Inception  # noqa: E402
from nag.metrics.moments import Moments  # noqa: E402
from nag.pretrained import INCEPTION  # noqa: E402
from tests.nag.inception_file import network, save  # noqa: E402

SIZE, BATCH, ROUNDS = 256, 32, 5


def samples(n: int) -> torch.Tensor:
    """(n, 3, 256, 256) in [-1, 1], like those of a sampler: smooth, with some noise, so that PNG has work to do."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 9, 9, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    return smooth.add_(0.03 * torch.randn(smooth.shape, generator=generator)).clamp_(-1, 1)


def clean_fid(weights: Path) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """clean-fid and its model of mode "clean", from the file in this folder instead of /tmp."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cleanfid.features
        from cleanfid import fid

        original = cleanfid.features.InceptionV3W
        cleanfid.features.InceptionV3W = lambda path, **options: original(str(weights.parent), **options)
        model = fid.build_feature_extractor("clean", torch.device("cpu"), use_dataparallel=False)
    return fid, model


def theirs_in_memory(images: torch.Tensor, weights: Path) -> Callable[[], np.ndarray]:
    fid, model = clean_fid(weights)

    def run() -> np.ndarray:
        batches = iter(images.split(BATCH))
        features = fid.get_model_features(
            lambda z: next(batches),
            model,
            num_gen=len(images),
            batch_size=BATCH,
            device=torch.device("cpu"),
            verbose=False,
        )
        np.mean(features, axis=0), np.cov(features, rowvar=False)
        return features

    return run


def ours_in_memory(images: torch.Tensor, weights: Path) -> Callable[[], np.ndarray]:
    extract = Inception(weights=str(weights)).open()

    def run() -> np.ndarray:
        return moments(np.concatenate([extract(batch)["features"].numpy() for batch in images.split(BATCH)]))

    return run


def moments(features: np.ndarray) -> np.ndarray:
    found = Moments(features.shape[1])
    found.add(features)
    assert np.isfinite(found.cov).all()
    return features


def theirs_with_files(x: torch.Tensor, weights: Path, folder: Path) -> Callable[[], np.ndarray]:
    """As sample_ddp.py of SiT and DiT: a PNG per sample, all of them into one npz; then clean-fid on the folder."""
    from PIL import Image

    fid, model = clean_fid(weights)

    def run() -> np.ndarray:
        png = folder / "png"
        png.mkdir(exist_ok=True)
        for start in range(0, len(x), BATCH):
            batch = (127.5 * x[start : start + BATCH] + 128.0).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
            for i, image in enumerate(batch, start=start):
                Image.fromarray(image).save(png / f"{i:06d}.png")
        stacked = np.stack([np.asarray(Image.open(png / f"{i:06d}.png")).astype(np.uint8) for i in range(len(x))])
        np.savez(folder / "samples.npz", arr_0=stacked)
        features = fid.get_folder_features(
            str(png), model, num_workers=0, batch_size=BATCH, device=torch.device("cpu"), mode="clean", verbose=False
        )
        np.mean(features, axis=0), np.cov(features, rowvar=False)
        return features

    return run


def ours_with_blocks(x: torch.Tensor, weights: Path, folder: Path) -> Callable[[], np.ndarray]:
    """As a worker does it: quantise, compute features, write both as a block."""
    from safetensors.numpy import save_file

    extract = Inception(weights=str(weights)).open()

    def run() -> np.ndarray:
        images = to_uint8(x)
        parts = [extract(batch) for batch in images.split(BATCH)]
        outputs = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
        save_file({"samples": images.numpy()}, folder / "samples.safetensors")
        save_file(outputs, folder / "features.safetensors")
        return moments(outputs["features"])

    return run


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def medians(*sides: Callable[[], object]) -> list[float]:
    """Median seconds of each, over rounds in which all have a turn, in changing order."""
    for side in sides:
        side()
    found: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS):
        for i in sorted(range(len(sides)), reverse=bool(number % 2)):
            found[i].append(seconds(sides[i]))
    return [statistics.median(times) for times in found]


def peak(side: str, n: int, weights: Path) -> float:
    """MB that a side needs besides images, network and imports, in a process of its own."""
    command = [sys.executable, __file__, str(n), side, str(weights)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measured(side: str, n: int, weights: Path) -> None:
    images = to_uint8(samples(n))
    run = (ours_in_memory if side == "ours" else theirs_in_memory)(images, weights)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run()
    status = Path("/proc/self/status").read_text()
    print((int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before) / 1e6)


def main(n: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = save(network(), folder / INCEPTION)
        x = samples(n)
        images = to_uint8(x)

        theirs, ours = theirs_in_memory(images, weights), ours_in_memory(images, weights)
        off = np.abs(theirs() - ours()).max()
        theirs_s, ours_s = medians(theirs, ours)
        print(f"In memory, {n} images of {SIZE}x{SIZE} (features differ by {off:.0e} at most):")
        print(f"  clean-fid {1e3 * theirs_s / n:.1f} ms an image, nagbench {1e3 * ours_s / n:.1f}: ", end="")
        print(f"{theirs_s / ours_s:.2f} times as fast (bound: 1)")
        theirs_mb, ours_mb = (peak(side, n, weights) for side in ("theirs", "ours"))
        print(f"  clean-fid needs {theirs_mb:.0f} MB, nagbench {ours_mb:.0f}: {ours_mb / theirs_mb:.2f} (bound: 1.2)")

        _, model = clean_fid(weights)
        resized = torch.nn.functional.interpolate(images[:BATCH].float(), (299, 299))

        def alone() -> None:
            with torch.no_grad():
                for _ in range(0, n, BATCH):
                    model(resized)

        files, blocks = theirs_with_files(x, weights, folder), ours_with_blocks(x, weights, folder)
        files_s, blocks_s, alone_s = medians(files, blocks, alone)
        share = (blocks_s - alone_s) / (files_s - alone_s)
        print("End to end, from samples to moments, ms an image:")
        print(f"  PNG, npz, clean-fid {1e3 * files_s / n:.1f}, nagbench {1e3 * blocks_s / n:.1f}, ", end="")
        print(f"of both the network {1e3 * alone_s / n:.1f}: beyond it {100 * share:.0f} % (bound: 40)")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        torch.set_num_threads(1)
        measured(sys.argv[2], int(sys.argv[1]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 320)
