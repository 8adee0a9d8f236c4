"""`nagbench export`: results for somebody without the store."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, open_store, out, report_pages, stored_plan
from orchestrator.commands.du import size
from orchestrator.commands.options import DeviceOption, NamedSweep, SmokeOption, StoreOption, check_device, given
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE


@command
def export(
    sweep: NamedSweep,
    target: Annotated[str, typer.Argument(metavar="OUT.zip|OUT.npz", help="The file to write.")],
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    cell: Annotated[
        str | None, typer.Option(help="Only the images of this cell, as .npz for ADM's evaluator.", callback=given)
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: only the first COUNT images.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write report, YAML, CSV, records and influences to a zip file, or the images of a cell to .npz."""
    from orchestrator.plan.model import find_cell
    from orchestrator.report.archive import export as pack
    from orchestrator.report.archive import export_images

    check_device(device)
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke)
    if cell is not None:
        written = export_images(plan, opened, target, find_cell(plan, cell), count, force, device)
    elif count is not None:
        raise BadInput("--count needs --cell")
    else:
        written = pack(plan, opened, target, report_pages(plan), force)
    files = "" if written.files == 1 else f"{written.files} files, "
    out.print(f"{written.path}: {files}{size(written.bytes)}", markup=False, soft_wrap=True)
