"""`nagbench logs`: the output of tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, open_store, out, stored_plan
from orchestrator.commands.options import NamedSweep, SetOption, SiteOption, SmokeOption, StoreOption
from orchestrator.notebook import DEFAULT_STORE


@command
def logs(
    sweep: NamedSweep,
    cell: Annotated[
        str | None, typer.Argument(help="Only tasks of this cell: the first characters of its digest.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines as they are written.")] = False,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    site: SiteOption = None,
) -> None:
    """Show the last log line of each task, or the whole logs of a cell's tasks."""
    from orchestrator.backends.kinds import queue_at
    from orchestrator.backends.site import read_site
    from orchestrator.commands import task_logs as written
    from orchestrator.plan.model import find_cell

    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, overrides=overrides)
    whole = queue_at(read_site(site) if site else None).logs(plan.sweep.name, opened)
    if whole is not None:
        out.print(whole, markup=False, soft_wrap=True)
        return
    chosen = find_cell(plan, cell) if cell else None
    if follow:
        for log, line in written.follow(plan, opened, chosen):
            out.print(f"{' '.join(log.title)}  {line}", markup=False, soft_wrap=True)
    known = written.logs(plan, opened, chosen)
    for log in known:
        kind, which = log.title
        if chosen:
            out.print(f"== {kind} {which}  {log.path}", style="bold", markup=False, soft_wrap=True)
            out.print(log.text.rstrip(), markup=False, soft_wrap=True)
        else:
            out.print(f"{kind:<9} {which:<12}  {log.telling}", markup=False, soft_wrap=True)
    if not known:
        out.print(f"No logs of this sweep in {opened.logs}.", markup=False, soft_wrap=True)
