"""How long `nagbench check` takes on checkpoints as large as DiT-XL/2's: what they are is read from their headers.

python -m benchmarks.checkpoint_headers FOLDER    # writes one file of 2.7 GB at a time there, and deletes it again
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from nag.models.dit import DiT
from nag.models.sizes import SIZES
from nag.models.weight_shapes import weight_shapes

SWEEP = """\
name: headers
networks:
  dit: {checkpoint: FILE, family: dit}
sampler: {name: ddpm, steps: 250}
arms:
  plain: {}
"""
State = dict[str, torch.Tensor]


def training(state: State, path: Path) -> None:
    """A training file with its optimizer's entries; all share their numbers, so that the file is not 10.8 GB."""
    moments = {place: {"step": 40_000, "exp_avg": w, "exp_avg_sq": w} for place, w in enumerate(state.values())}
    opt = {"state": moments, "param_groups": [{"params": list(moments)}]}
    args = argparse.Namespace(model="DiT-XL/2")
    torch.save({"model": state, "ema": dict(state), "opt": opt, "args": args}, path)


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "weights.pt": lambda state, path: torch.save(state, path),
    "training.pt": training,
    "old.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": lambda state, path: save_file(state, path),
}


def checked(sweep: Path) -> tuple[float, float, str]:
    """Seconds of the whole command, those of the CPU, and what it printed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", "check", sweep], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu_s, done.stdout + done.stderr


def main(folder: Path) -> None:
    shapes = weight_shapes(DiT(**SIZES["XL/2"], learned_variance=True), (4, 32, 32), 1000, null_noise=False)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    sweep = folder / "headers.yaml"
    for name, write in WRITERS.items():
        path = folder / name
        write(state, path)
        sweep.write_text(SWEEP.replace("FILE", name))
        seconds, cpu_s, words = min(checked(sweep) for _ in range(3))
        print(f"{name}: {os.path.getsize(path) / 1e9:.1f} GB, check {seconds:.2f} s, {cpu_s:.2f} s of a CPU\n{words}")
        path.unlink()
    sweep.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
