"""`nagbench status`: how far is the sweep?"""

from __future__ import annotations

from orchestrator.commands.app import command, open_store, out, print_json, read_plan
from orchestrator.commands.options import (
    JsonOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    TrackingOption,
)
from orchestrator.display import address
from orchestrator.errors import EnvironmentProblem
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def status(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
    site: SiteOption = None,
) -> None:
    """Say how far a sweep is. Writes nothing, waits for nothing."""
    from orchestrator.backends.ray import jobs as ray_jobs
    from orchestrator.backends.site import read_site
    from orchestrator.backends.slurm.ledger import queue_states
    from orchestrator.plan.progress import Done
    from orchestrator.report.progress import counts, counts_table
    from orchestrator.report.results import collect
    from orchestrator.report.terminal import failure

    found, opened = read_plan(sweep, smoke, hashes=False), open_store(store)
    done = Done(opened)
    results, tasks = collect(found, opened, done), counts(found, done)
    failed = [cell for cell in results.cells if cell.reason is not None]
    complete = sum(cell.complete for cell in results.cells)
    left = len(results.cells) - complete - len(failed)
    queue, trouble = queue_states(opened, found.sweep.name)
    place = read_site(site) if site else None
    jobs: list[ray_jobs.Job] = []
    if place and place.kind == "ray":
        try:
            jobs = ray_jobs.status(found.sweep.name, opened, place)
        except EnvironmentProblem as error:
            trouble = str(error)
    if as_json:
        cells = {"total": len(results.cells), "done": complete, "failed": len(failed), "missing": left}
        known = {"sweep": found.sweep.name, "store": address(store), "tracking": address(tracking)}
        told = [{"id": job.id, "status": job.status} for job in jobs]
        now = {"cells": cells, "tasks": tasks, "queue": queue, "queue_unknown": trouble, "ray_jobs": told}
        print_json({**known, **now})
        return
    out.print(counts_table(tasks))
    for kind, states in queue.items():
        words = ", ".join(f"{number:,} {state}" for state, number in states.items())
        out.print(f"Slurm, {kind}: {words} (elements)", markup=False, soft_wrap=True)
    for job in jobs:
        out.print(f"Ray job {job.id}: {job.status.lower()}", markup=False, soft_wrap=True)
    if trouble:
        who = "Ray" if place and place.kind == "ray" else "Slurm"
        out.print(f"{who} does not say what is queued: {trouble}", markup=False, soft_wrap=True)
    out.print(f"Cells: {complete} of {len(results.cells)} done, {len(failed)} failed, {left} to do.")
    for cell in failed:
        out.print(failure(cell), soft_wrap=True)
