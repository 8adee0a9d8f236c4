"""The arguments that several commands share: what they are called, and what `--help` says of them."""

import os.path
from typing import Annotated

import typer

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
StoreOption = Annotated[
    str, typer.Option(help="Where results live: a folder or an fsspec URL.", envvar="NAGBENCH_STORE")
]
TrackingOption = Annotated[
    str, typer.Option(help="MLflow tracking URI; 'none' for no tracking.", envvar="NAGBENCH_TRACKING")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm; may be repeated.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="The first and last value of each axis, tiny networks, few samples.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
SiteOption = Annotated[
    str | None, typer.Option(help="The site file, or its name; for submit, ~/.config/nagbench/site.yaml by default.")
]
HoursOption = Annotated[
    float | None, typer.Option(min=0, help="GPU hours that the sweep may use over its whole life, on Slurm.")
]

UNCOUNTED = "--max-gpu-hours: GPU hours are counted at sites of kind slurm only, so nothing would keep to that."


def absolute(store: str) -> str:
    """A store as other machines can open it. An empty one is refused where it is opened."""
    return store if "://" in store or not store.strip() else os.path.abspath(os.path.expanduser(store))
