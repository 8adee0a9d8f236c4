"""`nagbench init`: a new sweep file."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, out
from orchestrator.commands.options import given


@command
def init(
    path: Annotated[str, typer.Argument(metavar="NEW.yaml", help="The file to write.")] = "sweeps/first.yaml",
    like: Annotated[
        str | None,
        typer.Option(
            help="Copy this example, such as digits or paper/scratch. Its relative paths then start at the new folder.",
            callback=given,
        ),
    ] = None,
) -> None:
    """Write a commented sweep to start from, and a JSON schema for your editor."""
    from orchestrator.spec.template import starter

    for written in starter(path, like):
        out.print(f"wrote {written}", markup=False, soft_wrap=True)
    out.print(f"Next: nagbench check {path}, then nagbench run {path} --smoke", markup=False, soft_wrap=True)
