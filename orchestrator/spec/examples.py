"""The example sweeps and sites: in the source tree, or where `pip install` puts them."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from orchestrator.errors import BadInput, unknown

SOURCE = Path(__file__).resolve().parents[2]


def folder(name: str) -> Path:
    """The folder `sites` or `sweeps` of the source tree, or else of the installed package."""
    here = SOURCE / name
    return here if here.is_dir() else Path(sysconfig.get_path("data")) / "share" / "nagbench" / name


def example_sweep(name: str) -> Path:
    """The path of an example by its name, such as digits or paper/scratch. Raises BadInput for an unknown one."""
    place = folder("sweeps")
    known = {path.relative_to(place).with_suffix("").as_posix(): path for path in sorted(place.rglob("*.yaml"))}
    wanted = name.removesuffix(".yaml")
    if wanted not in known:
        raise BadInput(f"--like: {unknown('example', name, known)}" if known else f"--like: no examples in {place}.")
    return known[wanted]
