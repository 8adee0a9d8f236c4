"""The commands for clusters: queueing a sweep and leaving, ending it, and what a reconcile job runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.backends.campaign import begin
from orchestrator.backends.open import opener
from orchestrator.backends.slurm.ledger import tidy
from orchestrator.backends.slurm.reconcile import Reconcile
from orchestrator.commands.app import command, err, open_store, out, print_json, read_plan, report_folder
from orchestrator.commands.options import (
    UNCOUNTED,
    ArmOption,
    HoursOption,
    JsonOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    TrackingOption,
    absolute,
    finite,
)
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING

if TYPE_CHECKING:
    from orchestrator.backends.site import Site
    from orchestrator.plan.model import Plan
    from orchestrator.store.store import Store


@command
def submit(
    sweep: SweepArgument,
    site: SiteOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    max_gpu_hours: HoursOption = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Samples in the network at once.")] = 256,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Time between checkpoints of a training.", callback=finite)
    ] = 600.0,
    as_json: JsonOption = False,
) -> int:
    """Queue what is missing of a sweep on a cluster, and return. The same command again repairs, and queues nothing
    twice.
    """
    from orchestrator.backends.site import read_site
    from orchestrator.execution import engine
    from orchestrator.report.progress import Lines
    from orchestrator.tracking.sync import check as check_tracking

    check_tracking(tracking)
    place = read_site(site)
    found, opened = read_plan(sweep, smoke, arm), open_store(absolute(store))
    options = {"micro_batch": micro_batch, "checkpoint_s": checkpoint_seconds}
    if max_gpu_hours is not None and place.kind != "slurm":
        raise BadInput(UNCOUNTED)
    if place.kind == "ray":
        return _ray_submitted(found, opened, place, options, as_json)
    if place.kind != "slurm":
        raise BadInput(f"{place.path}: kind {place.kind!r} has no queue; nagbench run --site does the sweep there.")
    folder = str(report_folder(found).absolute())
    begun = begin(found, opened, place, tracking, folder, arm, smoke, max_gpu_hours=max_gpu_hours, options=options)
    observer = Lines(err)
    make = opener(found, opened, place, begun, observer.note, Reconcile)
    made: list[Any] = []

    def backend() -> Any:
        made.append(make())
        return made[0]

    flying, failed = engine.advance(found, opened, backend, observer, begun.since)
    waiting = sum(len(each.later) for each in made)  # outside of the queue; the observer was told for what
    if as_json:
        print_json({"sweep": found.sweep.name, "queued": flying - waiting, "waiting": waiting, "failed": failed})
    elif flying:
        out.print(
            f"{flying - waiting:,} bundles are on their way: nagbench status {sweep}", markup=False, soft_wrap=True
        )
    else:
        tidy(opened, found.sweep.name)
        out.print(f"Nothing is left to queue: nagbench report {sweep}", markup=False, soft_wrap=True)
    return 1 if failed else 0


def _ray_submitted(found: Plan, opened: Store, place: Site, options: dict[str, Any], as_json: bool) -> int:
    from orchestrator.backends.ray import jobs as ray_jobs
    from orchestrator.tasks.context import Options

    job, new = ray_jobs.submit(found, opened, place, Options(**{"device": "auto", **options}))
    if as_json:
        print_json({"sweep": found.sweep.name, "job": job.id, "status": job.status, "new": new})
    else:
        out.print(f"{'Submitted' if new else 'There already'}: Ray job {job.id} ({job.status.lower()})", markup=False)
    return 0
