"""`nagbench init`: a sweep to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, out


@command
def init(path: Annotated[str, typer.Argument(metavar="NEW.yaml")] = "sweeps/first.yaml") -> None:
    """Write a commented sweep to start from, and the JSON schema for editors."""
    from orchestrator.spec.template import starter

    for written in starter(path):
        out.print(f"wrote {written}", markup=False, soft_wrap=True)
    out.print(f"Next: nagbench check {path}, then nagbench run {path} --smoke", markup=False, soft_wrap=True)
