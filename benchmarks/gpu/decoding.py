"""Decoding and features: everything but the generator

The VAE of Stable Diffusion and the Inception network of FID with random weights, on images of 256 x 256; PNG as the
official code writes them. `h for 50,000` is the time of one cell.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import halving, memory_gb, seconds
from benchmarks.gpu.inception import inception
from nag.autoencoders.kl import Autoencoder

SD_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
TINY_VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
SIDE, CELL = 256, 50_000


def run(bench: Bench) -> None:
    _features(bench)
    _written(bench)
    try:
        import diffusers  # noqa: F401
    except ImportError:
        bench.note("no VAE: diffusers is not installed (pip install 'nagbench[latents]')")
        return
    with tempfile.TemporaryDirectory() as folder:
        _stored(Path(folder), bench.tiny)
        plain = Autoencoder(path=folder).open(bench.device).decode(_latents(bench)[:2]).cpu()
        for name, fields, channels_last in (
            ("VAE", {}, False),
            ("VAE, bf16", {"dtype": "bfloat16"}, False),
            ("VAE, bf16, channels-last", {"dtype": "bfloat16"}, True),
            ("VAE, channels-last", {}, True),
            ("VAE, tiles of 128", {"tile": 128}, False),
        ):
            if bench.left > 0:
                _decoded(bench, name, Autoencoder(path=folder, **fields).open(bench.device), channels_last, plain)


def _row(bench: Bench, what: str, batch: int, took: float, **more: Any) -> None:
    rate = batch / took
    bench.row(what=what, batch=batch, **{"images/s": rate, "h for 50,000": CELL / rate / 3600}, **more)


def _decoded(bench: Bench, name: str, vae: Any, channels_last: bool, plain: torch.Tensor) -> None:
    """Batches of 8 and 64; how many steps of 255 an image is from float32's, in root mean square."""
    if channels_last:
        vae._vae.to(memory_format=torch.channels_last)
    latents = _latents(bench)
    images = vae.decode(latents[:2]).cpu()
    steps = float((images - plain).square().mean().sqrt()) * 127.5

    def decode(n: int) -> float:
        vae.decode(latents[:n])
        return seconds(bench.device, lambda: vae.decode(latents[:n]))

    for wanted in (2,) if bench.tiny else (8, 64):
        batch, took = halving(bench, wanted, decode)
        _row(bench, name, batch, took, **{"memory GB": memory_gb(bench.device), "8-bit steps off": steps})


def _latents(bench: Bench) -> torch.Tensor:
    side = 4 if bench.tiny else SIDE // 8
    return 0.18215 * torch.randn(64, 4, side, side, generator=torch.Generator().manual_seed(0))


def _stored(folder: Path, tiny: bool) -> None:
    """A folder with config.json and random weights, as diffusers stores a VAE."""
    from diffusers import AutoencoderKL

    levels = 4
    fields = (TINY_VAE if tiny else SD_VAE) | {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": 4,
        "sample_size": SIDE,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(**fields).save_pretrained(folder)


def _features(bench: Bench) -> None:
    network = inception(bench.device, 16 if bench.tiny else 1)
    images = torch.zeros(256, 3, SIDE, SIDE, dtype=torch.uint8)

    def extract(n: int) -> float:
        network(images[:n])
        return seconds(bench.device, lambda: network(images[:n]).cpu())

    for wanted in (1,) if bench.tiny else (64, 256):
        batch, took = halving(bench, wanted, extract)
        _row(bench, "Inception", batch, took, **{"memory GB": memory_gb(bench.device)})


def _written(bench: Bench) -> None:
    """PNG, one after another, as the official sampling script writes them."""
    try:
        from PIL import Image
    except ImportError:
        bench.note("no PNG: pillow is not installed")
        return
    n = 2 if bench.tiny else 32
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (n, 3, SIDE // 8, SIDE // 8), dtype=torch.uint8, generator=generator).float()
    images = torch.nn.functional.interpolate(small, size=SIDE, mode="bicubic").clamp(0, 255).byte()
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    _row(
        bench, "PNG written", n, seconds("cpu", lambda: [Image.fromarray(i).save(io.BytesIO(), "PNG") for i in pixels])
    )
