"""`nagbench submit`: queue a sweep on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.backends.campaign import begin
from orchestrator.backends.kinds import at
from orchestrator.backends.slurm.reconcile import Reconcile
from orchestrator.commands.app import (
    command,
    err,
    open_store,
    out,
    print_json,
    read_plan,
    report_folder,
    warn_of_other_file,
)
from orchestrator.commands.options import (
    UNCOUNTED,
    ArmOption,
    HoursOption,
    JsonOption,
    SetOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    TrackingOption,
    absolute,
    finite,
)
from orchestrator.commands.what_stays import told_what_stays
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def submit(
    sweep: SweepArgument,
    site: SiteOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    max_gpu_hours: HoursOption = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Samples per network call.")] = 256,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between checkpoints of a training.", callback=finite)
    ] = 600.0,
    as_json: JsonOption = False,
) -> int:
    """Queue the missing work of a sweep on a cluster, and return. To repair or extend it, run the same command."""
    from orchestrator.backends.site import read_site
    from orchestrator.report.live import Lines
    from orchestrator.tracking.sync import check_address as check_tracking

    check_tracking(tracking)
    place = read_site(site)
    plan, opened = read_plan(sweep, smoke, arm, overrides=overrides), open_store(absolute(store))
    warn_of_other_file(plan, opened)
    options = {"micro_batch": micro_batch, "checkpoint_s": checkpoint_seconds}
    kind = at(place)
    if max_gpu_hours is not None and not kind.counts_hours:
        raise BadInput(UNCOUNTED)
    folder = str(report_folder(plan, opened).absolute())
    begun = begin(plan, opened, place, tracking, folder, max_gpu_hours=max_gpu_hours, options=options)
    with told_what_stays(kind, plan, opened):
        submitted = kind.submit(plan, opened, begun, Lines(err), Reconcile)
    if as_json:
        print_json({"sweep": plan.sweep.name, **submitted.told})
    else:
        out.print(submitted.words, markup=False, soft_wrap=True)
    return 1 if submitted.failed else 0
