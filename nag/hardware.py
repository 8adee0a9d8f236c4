"""The kind of a device: equal kinds give equal bits for the same work, others equal up to rounding."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path


@functools.cache
def kind(device: str, threads: int | None = None) -> dict[str, str | int]:
    """{"model", "torch", "threads"} of "cpu", "cuda" or "cuda:1". threads: torch's own number by default; a GPU has
    none.
    """
    import torch

    version = str(torch.__version__)
    if device.startswith("cuda"):
        return {"model": torch.cuda.get_device_name(torch.device(device)), "torch": version}
    return {"model": processor(), "torch": version, "threads": threads or torch.get_num_threads()}


def unusable(device: str = "cuda") -> str | None:
    """Why torch cannot compute on "cuda" or "cuda:1", in one sentence with the fix; None if it can."""
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is built without CUDA. Install one with it: pytorch.org/get-started."
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
        if not count:
            return NO_GPU
        if (index := torch.device(device).index or 0) >= count:
            return f"this machine has cuda:0 to cuda:{count - 1}." if count > 1 else "this machine has cuda:0 alone."
        torch.ones(1, device=torch.device("cuda", index)).add(1).item()
    except RuntimeError as error:
        return _why(str(error).strip())
    return None


NO_GPU = "torch finds no GPU on this machine."
REASONS = (  # a part of torch's message -> what to tell
    (
        "system is too old",
        "the NVIDIA driver is too old for this torch: update it, or install a torch of an older CUDA.",
    ),
    ("driver version is insufficient", "the NVIDIA driver is too old for this torch: update it."),
    ("Found no NVIDIA driver", "torch finds no GPU on this machine: it has no NVIDIA driver."),
    ("No CUDA GPUs are available", NO_GPU),
    ("no kernel image", "this torch has no code for this GPU: install one that supports its architecture."),
    ("out of memory", "the GPU has no memory left: nvidia-smi shows which process uses it."),
)


def _why(message: str) -> str:
    """A message of torch in one sentence."""
    line = message.partition("\n")[0].rstrip(".")
    return next((told for part, told in REASONS if part in message), f"torch cannot use the GPU: {line}.")


@functools.cache
def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The CPU's model, or its architecture if the model is unknown."""
    try:
        lines = Path(cpuinfo).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = dict.fromkeys(
        line.partition(":")[2].strip()
        for line in lines
        if line.partition(":")[0].strip() in ("model name", "cpu model")
    )
    return "; ".join(models) or platform.processor() or platform.machine()


def words(kind: Mapping[str, object]) -> str:
    """`Model, torch 2.6.0, threads 1`."""
    return ", ".join([str(kind.get("model")), *(f"{key} {kind[key]}" for key in ("torch", "threads") if key in kind)])


def differs(one: object, other: object) -> str | None:
    """How two kinds differ, in words; None if they are equal. An unknown kind differs from every other."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return "the kind of device was not recorded"
    keys = [key for key in ("model", "torch", "threads") if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in keys) or None
