"""`nagbench export`: results for somebody without the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.commands.app import command, err, open_store, out, report_pages, stored_plan
from orchestrator.commands.du import size
from orchestrator.commands.options import (
    DeviceOption,
    NamedSweep,
    SetOption,
    SmokeOption,
    StoreOption,
    check_device,
    given,
)
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE


@contextmanager
def writing_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of the images that are written, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        bar = shown.add_task("images", total=None)
        yield lambda done, of: shown.update(bar, completed=done, total=of)


@command
def export(
    sweep: NamedSweep,
    target: Annotated[str, typer.Argument(metavar="OUT.zip|OUT.npz|FOLDER", help="What to write.")],
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    cell: Annotated[
        str | None,
        typer.Option(
            help="Only the images of this cell: an .npz for ADM's evaluator, or a folder of PNG files.", callback=given
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: only the first COUNT images.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write report, YAML, CSV, records and influences to a zip file, or the images of a cell to .npz or PNG files."""
    from orchestrator.plan.model import find_cell
    from orchestrator.report.archive import export as pack
    from orchestrator.report.exported_images import export_images

    check_device(device)
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, overrides=overrides)
    if cell is not None:
        found = find_cell(plan, cell)
        with writing_progress() as tell:
            written = export_images(plan, opened, target, found, count, force, device, tell)
    elif count is not None:
        raise BadInput("--count needs --cell")
    else:
        written = pack(plan, opened, target, report_pages(plan, opened), force)
    files = "" if written.files == 1 else f"{written.files} files, "
    out.print(f"{written.path}: {files}{size(written.bytes)}", markup=False, soft_wrap=True)
