"""`nagbench status`: the progress of a sweep."""

from __future__ import annotations

from typing import Any

from orchestrator.commands.app import command, open_store, out, print_json, say, stored_plan, tell_overrides
from orchestrator.commands.options import (
    JsonOption,
    NamedSweep,
    SetOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    TrackingOption,
)
from orchestrator.display import address
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.report.formatting import plural
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def status(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
) -> None:
    """Show the progress of a sweep, and what is queued. Nothing is written."""
    from orchestrator.backends.kinds import queue_at
    from orchestrator.backends.site import read_site
    from orchestrator.plan.progress import Done
    from orchestrator.report.choices import choice_json
    from orchestrator.report.progress import counts, counts_table
    from orchestrator.report.races import choices_table
    from orchestrator.report.results import collect
    from orchestrator.report.terminal import choice_failure, failure_lines

    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, hashes=False, overrides=overrides)
    done = Done(opened)
    results = collect(plan, opened, done)
    tasks = counts(results.plan, done)
    failed = [cell for cell in results.cells if cell.reason is not None]
    complete = sum(cell.complete for cell in results.cells)
    left = len(results.cells) - complete - len(failed)
    queue = queue_at(read_site(site) if site else None)
    queued = queue.status(plan.sweep.name, opened)
    if as_json:
        cells = {"total": len(results.cells), "done": complete, "failed": len(failed), "missing": left}
        known = {"sweep": plan.sweep.name, "overrides": list(plan.sweep.overrides)}
        known |= {"store": address(store), "tracking": address(tracking)}
        now: dict[str, Any] = {"queue": queued.array_tasks, "queue_unknown": queued.unknown, "ray_jobs": queued.jobs}
        now |= {"queue_notes": [*queued.notes, *([queued.stopped] if queued.stopped and left else [])]}
        races = [choice_json(choice) for choice in results.choices]
        print_json({**known, "cells": cells, "tasks": tasks, **now, **({"choices": races} if races else {})})
        return
    tell_overrides(plan, opened)
    out.print(counts_table(tasks))
    if results.choices:
        out.print(choices_table(results.choices, spent=True))
    for kind, states in queued.array_tasks.items():
        words = ", ".join(f"{number:,} {state}" for state, number in states.items())
        out.print(f"{queue.title}, {kind}: {words} (array tasks)", markup=False, soft_wrap=True)
    for note in (*queued.notes, *([queued.stopped] if queued.stopped and left else [])):
        out.print(f"{queue.title}, {note}", markup=False, soft_wrap=True)
    for job in queued.jobs:
        reason = f" ({job['message']})" if job["message"] and job["status"] == "FAILED" else ""
        out.print(f"{queue.title} job {job['id']}: {job['status'].lower()}{reason}", markup=False, soft_wrap=True)
    if queued.unknown:
        out.print(f"{queue.title} cannot tell what is queued: {queued.unknown}", markup=False, soft_wrap=True)
    open_ = sum(choice.chosen is None for choice in results.choices)
    more = f"; others follow from {plural(open_, 'choice')} of tuned values" if open_ else ""
    say(f"Cells: {complete} of {len(results.cells)} done, {len(failed)} failed, {left} to do{more}.")
    for line in (*failure_lines(failed), *(choice_failure(each) for each in results.choices if each.reason)):
        out.print(line, soft_wrap=True)
