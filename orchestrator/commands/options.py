"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

import math
import os
import re
from typing import Annotated

import typer

from nag import locations
from orchestrator.errors import BadInput, EnvironmentProblem, unknown


def given(value: str | None) -> str | None:
    """Refuse an empty value: most likely a script's variable is unset, and ignoring that would start other work."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty. Give a value, or leave out the option.")
    return value


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
NamedSweep = Annotated[str, typer.Argument(metavar="SWEEP", help="The name of a sweep in the store, or its YAML file.")]
StoreOption = Annotated[
    str, typer.Option(help="Where results live: a folder or an fsspec URL.", envvar="NAGBENCH_STORE", callback=given)
]
TrackingOption = Annotated[
    str, typer.Option(help="MLflow tracking URI, or 'none'.", envvar="NAGBENCH_TRACKING", callback=given)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm; can be repeated.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="Quick trial: first and last value of each axis, tiny networks, few samples.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Use this value in place of the file's, such as sample.count=1000; can be repeated.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:N or mps.")]
SiteOption = Annotated[
    str | None,
    typer.Option(
        help="Site file of a cluster, or its name in ~/.config/nagbench or sites/. submit takes site.yaml by default.",
        callback=given,
    ),
]
CellOption = Annotated[
    str | None, typer.Option(help="Only this cell: the first characters of its digest.", callback=given)
]
HoursOption = Annotated[
    float | None,
    typer.Option(min=0, help="On Slurm: the most GPU hours that the sweep may use in all.", callback=finite),
]

UNCOUNTED = "--max-gpu-hours: GPU hours are counted only at sites of kind slurm."


def absolute(store: str) -> str:
    """The store's URL or absolute path. One that `Store` refuses, such as an empty name, stays as it is."""
    unchanged = "://" in store or not store.strip() or locations.refusal(store)
    return store if unchanged else os.path.abspath(os.path.expanduser(store))


def check_device(device: str, processes: int = 1) -> None:
    """Raise BadInput for an unknown device, EnvironmentProblem for one that this machine does not have.

    Each of `processes` needs a GPU of its own. torch is imported only to count GPUs.
    """
    matched = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d{1,4}))?", device)
    if not matched:
        raise BadInput(f"--device: {unknown('device', device, ['auto', 'cpu', 'cuda', 'cuda:0', 'mps'])}")
    if processes > 1 and matched[1]:
        raise BadInput(f"--device {device}: {processes} processes need a GPU each; use --device cuda")
    if device in ("auto", "cpu"):
        return
    import torch

    from nag.hardware import NO_GPU, unusable

    if device == "mps":
        if not torch.backends.mps.is_available():
            raise EnvironmentProblem("--device mps: torch finds none on this machine. Use --device cpu.")
        return
    count = torch.cuda.device_count()
    if not count:
        raise EnvironmentProblem(f"--device {device}: {unusable() or NO_GPU} Use --device cpu.")
    if matched[1] and int(matched[1]) >= count:
        last = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise EnvironmentProblem(f"--device {device}: this machine has {last}.")
    if processes > count:
        raise EnvironmentProblem(f"--processes {processes}: each needs a GPU, and this machine has {count}.")
