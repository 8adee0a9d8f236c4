"""`nagbench run`: finish a sweep and compare its arms."""

from __future__ import annotations

import functools
import os
from typing import Annotated

import typer

from orchestrator.commands import outermost
from orchestrator.commands.app import (
    command,
    compare_and_report,
    err,
    open_store,
    read_plan,
    report_folder,
    warn_of_other_file,
)
from orchestrator.commands.options import (
    UNCOUNTED,
    ArmOption,
    CellOption,
    DeviceOption,
    HoursOption,
    SetOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    TrackingOption,
    absolute,
    check_device,
    finite,
)
from orchestrator.commands.what_stays import told_what_stays
from orchestrator.errors import BadInput, unknown
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def run(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; by default one per GPU, or per core without one.")
    ] = None,
    device: DeviceOption = "auto",
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    cell: CellOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: only this many samples.")] = None,
    here: Annotated[
        bool, typer.Option("--here", help="For debugging: run in this process, with full tracebacks.")
    ] = False,
    micro_batch: Annotated[int, typer.Option(min=1, help="Samples per network call.")] = 256,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between checkpoints of a training.", callback=finite)
    ] = 30.0,
    site: SiteOption = None,
    backend: Annotated[str, typer.Option(help="local, or ray for a private Ray instance on this machine.")] = "local",
    processes: Annotated[int, typer.Option(min=1, help="Processes that train one network together.")] = 1,
    max_gpu_hours: HoursOption = None,
) -> int:
    """Do the missing work of a sweep, then compare. To resume, extend or repair it, run the same command again."""
    from orchestrator.backends.campaign import begin, check_divides, patiently
    from orchestrator.backends.cards import default_workers
    from orchestrator.backends.inline import Inline
    from orchestrator.backends.kinds import at
    from orchestrator.backends.local import Local
    from orchestrator.backends.ray.backend import Ray
    from orchestrator.backends.site import read_site
    from orchestrator.backends.slurm.reconcile import Reconcile
    from orchestrator.execution import engine
    from orchestrator.execution.protocol import Backend
    from orchestrator.report.live import watch
    from orchestrator.report.results import collect
    from orchestrator.tasks.context import Options
    from orchestrator.tracking.sync import NONE, follow
    from orchestrator.tracking.sync import check_address as check_tracking

    check_tracking(tracking)
    place = read_site(site) if site else None
    kind = at(place) if place else None
    check_device(device, processes)
    if backend not in ("local", "ray"):
        raise BadInput(f"--backend: {unknown('backend', backend, ['local', 'ray'])}")
    if count is not None and cell is None:
        raise BadInput("--count needs --cell; for a whole sweep, set sample.count in its file")
    if place and (here or workers or device != "auto" or backend != "local" or processes > 1):
        words = "--here, --workers, --device, --backend and --processes are for this machine"
        raise BadInput(f"{words}; with --site, set these in the site file")
    if here and (workers or backend != "local" or processes > 1):
        raise BadInput("--here uses this process alone; leave out --workers, --backend and --processes")
    if max_gpu_hours is not None and not (kind and kind.counts_hours):
        raise BadInput(UNCOUNTED)
    plan = read_plan(sweep, smoke, arm, cell, count, overrides=overrides)
    opened = open_store(absolute(store) if place else store)
    warn_of_other_file(plan, opened)
    spread = default_workers(device) if backend == "local" else len(os.sched_getaffinity(0))
    number = 1 if here else workers or spread
    check_divides(plan, processes, f"--processes is {processes}")
    options = Options(device=device, micro_batch=micro_batch, checkpoint_s=checkpoint_seconds, processes=processes)

    outermost.tracebacks_wanted = here

    def make() -> Backend:
        if here:
            return Inline(opened, options, raises=True)
        return Ray(opened, options, cpus=number) if backend == "ray" else Local(opened, number, options)

    if cell:
        tracking = NONE  # a single cell is for debugging, not part of the comparison
    with follow(lambda: collect(plan, opened), tracking, opened), watch(err, plan, opened) as observer:
        if place and kind:
            given = {"micro_batch": micro_batch, "checkpoint_s": checkpoint_seconds}
            folder = str(report_folder(plan, opened).absolute())
            begun = begin(plan, opened, place, tracking, folder, max_gpu_hours=max_gpu_hours, options=given)
            at_site = kind.open(plan, opened, begun, observer.note, Reconcile)
            do = functools.partial(engine.run, plan, opened, at_site, observer, begun.since)
            with told_what_stays(kind if kind.far else None, plan, opened):
                patiently(do, observer.note) if kind.far else do()
        else:
            engine.run(plan, opened, make, observer)
    return compare_and_report(plan, opened, store, tracking)
