"""`nagbench fetch`: download published weights."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, out
from orchestrator.commands.du import size
from orchestrator.commands.score import download_progress
from orchestrator.errors import BadInput, EnvironmentProblem


@command
def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The file; without it, list the known ones.")
    ] = None,
) -> None:
    """Download the weights of a feature network into your cache and check their hash."""
    from nag.pretrained import KNOWN, find
    from nag.pretrained import fetch as download

    if name is None:
        for known, entry in KNOWN.items():
            there = find(known)
            place = f"is at {there}" if there else f"{size(entry.size or 0)} from {entry.url}"
            out.print(f"{known}  {place}", markup=False, soft_wrap=True)
        return
    with download_progress() as (shown, bar):
        try:
            path = download(name, lambda done, of: shown.update(bar, completed=done, total=of or None))
        except ConnectionError as error:
            raise EnvironmentProblem(str(error)) from error
        except OSError as error:
            raise EnvironmentProblem(f"{name} cannot be written: {error}") from error
        except ValueError as error:
            raise BadInput(f"{error}.") from error
    out.print(f"{path}", markup=False, soft_wrap=True)
