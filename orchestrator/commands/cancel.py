"""`nagbench cancel`: end what is queued and running."""

from __future__ import annotations

from orchestrator.backends.slurm.submission import owner
from orchestrator.commands.app import command, err, open_store, out, read_plan
from orchestrator.commands.options import (
    ArmOption,
    CellOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    absolute,
)
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.report.formatting import plural


@command
def cancel(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    site: SiteOption = None,
    arm: ArmOption = None,
    cell: CellOption = None,
    smoke: SmokeOption = False,
) -> int:
    """End what is queued and running for a sweep on a cluster, or for some of it, and wait until it is gone."""
    from orchestrator.backends.ray import jobs as ray_jobs
    from orchestrator.backends.site import read_site
    from orchestrator.backends.slurm.commands import Commands
    from orchestrator.backends.slurm.jobs import Jobs
    from orchestrator.backends.slurm.ledger import end
    from orchestrator.plan.model import needs_only

    found, opened = read_plan(sweep, smoke), open_store(absolute(store))
    place = read_site(site) if site else None
    if place and place.kind == "ray":
        if arm or cell:
            raise BadInput("--arm, --cell: a Ray job does its sweep as a whole; cancel it whole.")
        ended = ray_jobs.cancel(found.sweep.name, opened, place)
        count_ended = plural(len(ended), "Ray job")
        out.print(f"Ended: {count_ended}. What is published stays; nagbench submit goes on from there.")
        return 0
    only = needs_only(found, arm, cell) if arm or cell else None
    jobs = Jobs(opened, found.sweep.name, Commands(), lambda text: err.print(text, markup=False))
    with err.status("Cancelling..."):
        count, gone = end(jobs, owner(), only)
    words = "are gone" if gone else "were told to end, and some still run"
    out.print(f"{count:,} elements {words}. What is published stays; nagbench submit goes on from there.")
    return 0 if gone else 1
