"""`nagbench init`: a new sweep file."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from orchestrator.commands.app import command, out
from orchestrator.commands.options import given
from orchestrator.errors import BadInput


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
    images: Annotated[
        str | None,
        typer.Option(help="Write a sweep over your own images: a folder with one folder per class.", callback=given),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="With --images: the size in pixels to which they are cropped.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="With --images: your own network's file. Without it, a small SiT is trained.", callback=given
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="With --checkpoint: dit, sit or repa, if the file does not say.", callback=given)
    ] = None,
) -> None:
    """Write a commented sweep to start from, and a JSON schema for your editor."""
    from orchestrator.spec.template import starter

    for option, value, needs, needed in (
        ("resolution", resolution, "images", images),
        ("checkpoint", checkpoint, "images", images),
        ("family", family, "checkpoint", checkpoint),
    ):
        if value is not None and needed is None:
            raise BadInput(f"--{option} needs --{needs}")
    if images is None:
        paths = starter(path, like)
    elif like is not None:
        raise BadInput("--like and --images are two ways to start; give one")
    else:
        from orchestrator.spec.starter_images import sweep_text

        paths = starter(path, made=partial(sweep_text, images, resolution, checkpoint, family))
    for written in paths:
        out.print(f"wrote {written}", markup=False, soft_wrap=True)
    out.print(f"Next: nagbench check {path}, then nagbench run {path} --smoke", markup=False, soft_wrap=True)
