"""`nagbench logs`: the output of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.app import command, open_store, out, stored_plan
from orchestrator.commands.options import NamedSweep, SetOption, SiteOption, SmokeOption, StoreOption
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE

if TYPE_CHECKING:
    from orchestrator.commands.task_logs import Alike

OTHERS = 8  # failed tasks that are named beside the first


@command
def logs(
    sweep: NamedSweep,
    cell: Annotated[
        str | None, typer.Argument(help="Only tasks of this cell: the first characters of its digest.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines as they are written.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only failed tasks: the whole log, once for those that failed alike.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    site: SiteOption = None,
) -> None:
    """Show the last log line of each task, or the whole logs of a cell's tasks or of failed ones."""
    from orchestrator.backends.kinds import queue_at
    from orchestrator.backends.site import read_site
    from orchestrator.commands import task_logs as written
    from orchestrator.plan.model import find_cell

    if failed and follow:
        raise BadInput("--failed shows what has ended and --follow what is written; give one of them")
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, overrides=overrides)
    whole = queue_at(read_site(site) if site else None).logs(plan.sweep.name, opened)
    if whole is not None:
        out.print(whole, markup=False, soft_wrap=True)
        return
    chosen = find_cell(plan, cell) if cell else None
    if failed:
        _failures(written.failed(plan, opened, chosen), plan.sweep.name)
        return
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


def _failures(groups: list[Alike], sweep: str) -> None:
    """Print the log of the first task of each group, and which others failed like it."""
    for group in groups:
        first, *others = group.tasks
        title = f"== {first.kind} {first.digest[:12]}" + (f" and {len(others):,} more alike" if others else "")
        out.print(f"{title}  {group.log}", style="bold", markup=False, soft_wrap=True)
        out.print(group.text.rstrip(), markup=False, soft_wrap=True)
        if others:
            more = f" and {len(others) - OTHERS:,} more" if len(others) > OTHERS else ""
            names = ", ".join(task.digest[:12] for task in others[:OTHERS])
            out.print(f"   failed alike: {names}{more}", markup=False, soft_wrap=True)
    if not groups:
        out.print(f"No task of sweep {sweep} has failed.", markup=False, soft_wrap=True)
