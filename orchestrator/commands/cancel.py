"""`nagbench cancel`: end jobs that are queued or running."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, err, open_store, out, stored_plan
from orchestrator.commands.options import (
    ArmOption,
    CellOption,
    NamedSweep,
    SetOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    absolute,
)
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.report.formatting import plural


@command
def cancel(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    site: SiteOption = None,
    arm: ArmOption = None,
    cell: CellOption = None,
    obsolete: Annotated[
        bool, typer.Option("--obsolete", help="Only work that the sweep no longer has since it was edited.")
    ] = False,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
) -> int:
    """Cancel your jobs of a sweep on a cluster, or those of some arms or a cell, and wait until they have ended."""
    from orchestrator.backends.kinds import queue_at
    from orchestrator.backends.site import read_site
    from orchestrator.plan.difference import obsolete as obsolete_tasks
    from orchestrator.plan.model import needs_only

    if obsolete and (arm or cell):
        raise BadInput("--obsolete is for what the sweep no longer has; leave out --arm and --cell")
    opened = open_store(absolute(store))
    plan = stored_plan(sweep, opened, smoke, overrides=overrides)
    queue = queue_at(read_site(site) if site else None)
    only = needs_only(plan, arm, cell) if arm or cell else None
    only = obsolete_tasks(plan, opened) if obsolete else only
    with err.status("Cancelling..."):
        ended = queue.cancel(plan, opened, only, lambda text: err.print(text, markup=False))
    words = f"{'Ended' if ended.gone else 'Cancelled, but some still run'}: {plural(ended.count, ended.what)}."
    out.print(f"{words} Finished work stays; nagbench submit continues from there.")
    return 0 if ended.gone else 1
