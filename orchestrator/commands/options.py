"""The arguments that several commands share: what they are called, and what `--help` says of them."""

from __future__ import annotations

import math
import os
import re
from typing import Annotated

import typer

from orchestrator.errors import BadInput, EnvironmentProblem, unknown


def given(value: str | None) -> str | None:
    """An empty value is a variable of a script that was never set; to take it for no option would start other work."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty. Give a value, or leave the option out.")
    return value


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number to keep to.")
    return value


SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
NamedSweep = Annotated[
    str, typer.Argument(metavar="SWEEP", help="The name of a sweep in the store, or its file, which may be newer.")
]
StoreOption = Annotated[
    str, typer.Option(help="Where results live: a folder or an fsspec URL.", envvar="NAGBENCH_STORE", callback=given)
]
TrackingOption = Annotated[
    str, typer.Option(help="MLflow tracking URI; 'none' for no tracking.", envvar="NAGBENCH_TRACKING", callback=given)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm; may be repeated.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="The first and last value of each axis, tiny networks, few samples.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
SiteOption = Annotated[
    str | None,
    typer.Option(
        help="The site file, or its name; for submit, ~/.config/nagbench/site.yaml by default.", callback=given
    ),
]
CellOption = Annotated[
    str | None, typer.Option(help="Only this cell, by the first letters of its digest.", callback=given)
]
HoursOption = Annotated[
    float | None,
    typer.Option(min=0, help="GPU hours that the sweep may use over its whole life, on Slurm.", callback=finite),
]

UNCOUNTED = "--max-gpu-hours: GPU hours are counted at sites of kind slurm only, so nothing would keep to that."


def absolute(store: str) -> str:
    """A store as other machines can open it. An empty one is refused where it is opened."""
    return store if "://" in store or not store.strip() else os.path.abspath(os.path.expanduser(store))


def check_device(device: str, processes: int = 1) -> None:
    """Raise BadInput for what is not a device, EnvironmentProblem for one that this machine does not have.

    processes: that take a GPU each. torch is imported only to count GPUs.
    """
    found = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d{1,4}))?", device)
    if not found:
        raise BadInput(f"--device: {unknown('device', device, ['auto', 'cpu', 'cuda', 'cuda:0', 'mps'])}")
    if processes > 1 and found[1]:
        raise BadInput(f"--device {device}: {processes} processes take a GPU each, so say --device cuda")
    if device in ("auto", "cpu"):
        return
    import torch

    if device == "mps":
        if not torch.backends.mps.is_available():
            raise EnvironmentProblem("--device mps: torch sees none on this machine. Say --device cpu.")
        return
    count = torch.cuda.device_count()
    if not count:
        raise EnvironmentProblem(f"--device {device}: torch sees no GPU on this machine. Say --device cpu.")
    if found[1] and int(found[1]) >= count:
        last = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise EnvironmentProblem(f"--device {device}: this machine has {last}.")
    if processes > count:
        raise EnvironmentProblem(f"--processes {processes}: each takes a GPU, and this machine has {count}.")
