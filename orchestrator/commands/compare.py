"""`nagbench compare`: several sweeps, or one of several stores, side by side."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.app import command, err, open_store, out, print_json, stored_plan
from orchestrator.commands.options import JsonOption, SetOption, SmokeOption, TrackingOption
from orchestrator.display import address
from orchestrator.errors import BadInput, NagbenchError
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING

if TYPE_CHECKING:
    from orchestrator.report.side_by_side import Side


class Format(StrEnum):
    """How tables are printed."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"


@command
def compare(
    sweeps: Annotated[
        list[str], typer.Argument(metavar="SWEEP SWEEP...", help="Names of sweeps in the store, or their YAML files.")
    ],
    store: Annotated[
        list[str] | None,
        typer.Option(help="Where results live: once for all sweeps, or once for each. Default: as in other commands."),
    ] = None,
    tracking: TrackingOption = DEFAULT_TRACKING,
    shape: Annotated[Format, typer.Option("--format", help="How the tables are printed.")] = Format.terminal,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of several sweeps side by side. Values that were measured in different ways stay apart."""
    from orchestrator.report import latex, markdown, side_by_side
    from orchestrator.report.terminal_tables import TerminalTable
    from orchestrator.tracking.sync import check_address

    check_address(tracking)
    sides = _sides(sweeps, store or [os.environ.get("NAGBENCH_STORE") or DEFAULT_STORE], smoke, overrides)
    measured = side_by_side.side_by_side(sides)
    names = list(dict.fromkeys(side.results.plan.sweep.name for side in sides))
    link = _link(names, tracking)
    if as_json:
        print_json(side_by_side.as_json(sides, measured) | {"mlflow": link})
        return
    tables, remarks = side_by_side.tables(sides, measured), side_by_side.remarks(sides, measured)
    match shape:
        case Format.terminal:
            for table in tables:
                out.print(TerminalTable(table))
        case Format.markdown:
            text = "\n\n".join([*map(markdown.table_text, (table.on_page() for table in tables))])
            out.print(text, markup=False, soft_wrap=True)
        case Format.latex:
            out.print(latex.text(", ".join(names), tables), markup=False, soft_wrap=True)
    for remark in remarks:
        (out if shape is Format.terminal else err).print(remark, style="yellow", markup=False, soft_wrap=True)
    if link:
        (out if shape is Format.terminal else err).print(f"MLflow: {link}", markup=False, soft_wrap=True)


def _sides(sweeps: list[str], stores: list[str], smoke: bool, overrides: list[str] | None) -> list[Side]:
    from orchestrator.report.results import collect
    from orchestrator.report.side_by_side import Side

    if len(stores) == 1:
        stores = stores * len(sweeps)
    if len(sweeps) < 2:
        raise BadInput("compare needs two sweeps or more: nagbench compare SWEEP SWEEP, or one SWEEP for each --store.")
    if len(stores) != len(sweeps):
        raise BadInput(f"{len(sweeps)} sweeps and {len(stores)} stores: give --store once, or once for each sweep.")
    found = []
    for sweep, url in zip(sweeps, stores, strict=True):
        opened = open_store(url)
        found.append((collect(stored_plan(sweep, opened, smoke, overrides=overrides), opened), address(url)))
    names = [results.plan.sweep.name for results, _ in found]
    return [
        Side(name if names.count(name) == 1 else f"{name} ({url})", url, results)
        for name, (results, url) in zip(names, found, strict=True)
    ]


def _link(names: list[str], tracking: str) -> str | None:
    """MLflow's page of these sweeps' settings; None, with a warning, if MLflow does not have them."""
    from orchestrator.tracking.address import NONE
    from orchestrator.tracking.ui import compared

    if tracking == NONE:
        return None
    try:
        return compared(names, tracking)
    except NagbenchError as error:
        err.print(f"No link to MLflow: {error}", style="yellow", markup=False, soft_wrap=True)
        return None
