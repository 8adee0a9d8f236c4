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
