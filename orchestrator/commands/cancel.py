"""`nagbench cancel`: end what is queued and running."""

from __future__ import annotations

from orchestrator.commands.app import command, err, open_store, out, stored_plan
from orchestrator.commands.options import (
    ArmOption,
    CellOption,
    NamedSweep,
    SiteOption,
    SmokeOption,
    StoreOption,
    absolute,
)
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.report.formatting import plural


@command
def cancel(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    site: SiteOption = None,
    arm: ArmOption = None,
    cell: CellOption = None,
    smoke: SmokeOption = False,
) -> int:
    """End what is queued and running for a sweep on a cluster, or for some of it, and wait until it is gone."""
    from orchestrator.backends.kinds import queue_at
    from orchestrator.backends.site import read_site
    from orchestrator.plan.model import needs_only

    opened = open_store(absolute(store))
    found = stored_plan(sweep, opened, smoke)
    queue = queue_at(read_site(site) if site else None)
    only = needs_only(found, arm, cell) if arm or cell else None
    with err.status("Cancelling..."):
        ended = queue.cancel(found, opened, only, lambda text: err.print(text, markup=False))
    words = f"{'Ended' if ended.gone else 'Told to end, and some still run'}: {plural(ended.count, ended.what)}."
    out.print(f"{words} What is published stays; nagbench submit goes on from there.")
    return 0 if ended.gone else 1
