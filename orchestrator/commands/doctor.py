"""`nagbench doctor`: what this machine or a site lacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.app import command, err, out, print_json, read_plan
from orchestrator.commands.options import JsonOption, SetOption, SiteOption, StoreOption, TrackingOption, absolute
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.backends.doctor_rows import DoctorRow

STYLES = {"ok": "green", "missing": "red", "warning": "yellow"}


@command
def doctor(
    sweep: Annotated[str | None, typer.Argument(metavar="SWEEP.yaml", help="Also check what this sweep needs.")] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    as_json: JsonOption = False,
    site: SiteOption = None,
    overrides: SetOption = None,
) -> int:
    """Show what this machine (with --site: a cluster) has, what is missing, and how to fix it."""
    from orchestrator.backends import local_doctor
    from orchestrator.backends.doctor_rows import missing_weights
    from orchestrator.backends.kinds import at
    from orchestrator.backends.site import read_site

    plan = read_plan(sweep, overrides=overrides) if sweep else None
    place = at(read_site(site)) if site else None
    with err.status(f"Asking {place.title}..." if place else "Looking at this machine..."):
        if place:
            rows = list(place.doctor(absolute(store), tracking, plan))
        else:
            rows = local_doctor.doctor(store, tracking, missing_weights(plan) if plan else ())
    print_json(rows_as_json(rows)) if as_json else out.print(table(rows))
    return exit_code(rows)


def exit_code(rows: Iterable[DoctorRow]) -> int:
    """3 if something necessary is missing, else 0."""
    return 3 if any(row.state == "missing" and row.needed for row in rows) else 0


def rows_as_json(rows: Iterable[DoctorRow]) -> dict[str, Any]:
    rows = list(rows)
    return {"ok": exit_code(rows) == 0, "rows": [asdict(row) for row in rows]}


def table(rows: Iterable[DoctorRow]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    for _ in range(3):
        shown.add_column(overflow="fold")
    for row in rows:
        absent = row.state == "missing" and not row.needed
        state = Text("not here", style="dim") if absent else Text(row.state, style=STYLES[row.state])
        detail = Text(row.detail)
        if row.fix:
            detail.append(f"\n{row.fix}", style="dim" if absent else "bold")
        shown.add_row(row.name, state, detail)
    return shown
