"""`nagbench fetch`: download published weights."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, err, out
from orchestrator.commands.du import size
from orchestrator.commands.score import download_progress
from orchestrator.errors import BadInput, EnvironmentProblem

UNKNOWN = "size and hash not known"


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
            held = size(entry.size) if entry.size else UNKNOWN
            place = f"is at {there}" if there else f"{held} from {entry.url}"
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
    if KNOWN[name].sha256 is None:
        told = f"{UNKNOWN}; a download is checked only if its server tells a hash. Its content's hash is in the stamps."
        err.print(f"{name}: {told}", markup=False)
