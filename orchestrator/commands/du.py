"""`nagbench du`: disk space that a store uses."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from orchestrator.commands.app import command, open_store, out, print_json, stored_plan
from orchestrator.commands.options import JsonOption, SetOption, SmokeOption, StoreOption
from orchestrator.display import address
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tasks.task import KINDS, kind_of


@command
def du(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Only this sweep, by arm.")] = None,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the disk space that a store uses, by sweep (or by arm of one sweep) and kind of file."""
    from orchestrator.retention.usage import Space, usage

    opened = open_store(store)
    used = usage(opened, stored_plan(sweep, opened, smoke, overrides=overrides) if sweep else None)
    what = "arm" if sweep else "sweep"
    if as_json:
        print_json({"store": address(store), **used.as_json(what)})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(what)
    columns = [column for column in dict.fromkeys(kind_of(kind).column for kind in KINDS) if column]
    for column in (*columns, "all", "files"):
        table.add_column(column, justify="right", no_wrap=True)
    names: dict[str, dict[str, Space]] = defaultdict(dict)
    for (name, kind), space in used.rows.items():
        names[name][kind] = space
    for name, kinds in names.items():
        whole = sum(kinds.values(), Space())
        cells = [size(sum(kinds[k].bytes for k in kinds if kind_of(k).column == column)) for column in columns]
        table.add_row(name, *cells, size(whole.bytes), f"{whole.files:,}")
    out.print(table)
    if used.shared.files:
        out.print(f"Shared by several, and counted for each: {used.shared}.")
    out.print(f"Everything else (plans, logs, other sweeps, damaged files set aside): {used.others}.")
    out.print(f"The store: {used.total}.  nagbench gc shows what no sweep needs any more.")


def text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def size(number: float) -> str:
    from orchestrator.retention.usage import size_text

    return size_text(number)
