"""The commands for one machine. Only the files of commands print."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Annotated

import typer

from orchestrator import interrupts, outermost
from orchestrator.app import (
    command,
    compare_and_report,
    err,
    open_store,
    out,
    print_json,
    read_plan,
    report_folder,
    report_pages,
    track,
)
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, unknown
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.options import (
    UNCOUNTED,
    ArmOption,
    CellOption,
    DeviceOption,
    HoursOption,
    JsonOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    TrackingOption,
    absolute,
    check_device,
    finite,
)
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def check(
    sweep: SweepArgument,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
    deep: Annotated[bool, typer.Option("--deep", help="Open data and weights, run the sweep's own code.")] = False,
    site: SiteOption = None,
) -> None:
    """Say whether a sweep is right, without doing anything."""
    from orchestrator.absent import absent
    from orchestrator.deep import look
    from orchestrator.plan import plan as _planned
    from orchestrator.report.progress import shape
    from orchestrator.spec import read_sweep

    found = read_sweep(sweep, smoke=smoke, run_user_code=deep)
    lines = list(look(found)) if deep else []
    planned = _planned(found, hashes=deep) if deep or not found.code else None
    if site and planned:
        from orchestrator.cluster import check_batches
        from orchestrator.site import read_site

        check_batches(planned, read_site(site))
    elsewhere = absent(planned) if planned else []
    if as_json:
        print_json({"sweep": found.name, "arms": len(found.arms), "cells": len(found.cells), "absent": elsewhere})
        return
    for line in (*lines, *(f"not on this machine: {line}" for line in elsewhere)):
        out.print(line, markup=False, soft_wrap=True)
    known = shape(planned) if planned else "Code of its own was read, not run; --deep runs it."
    out.print(f"{sweep}: good. {known}", markup=False, soft_wrap=True)


@command
def plan(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
    site: SiteOption = None,
) -> None:
    """Show the cells, the tasks by kind, what is done already, and what the rest will take at a site."""
    from orchestrator.absent import absent
    from orchestrator.cluster_commands import forecast_table
    from orchestrator.disk import estimate
    from orchestrator.kept import again
    from orchestrator.plan import Done
    from orchestrator.report.progress import cells_table, counts, counts_table, shape
    from orchestrator.site import read_site

    place = read_site(site) if site else None
    found, opened = read_plan(sweep, smoke, arm), open_store(store)
    done = Done(opened)
    tasks, space, repeated = counts(found, done), estimate(found), again(found, done)
    arrays, words, told = forecast_table(found, opened, place) if place and place.kind == "slurm" else (None, "", {})
    if as_json:
        cells = [{"arm": c.cell.arm, "digest": c.digest, "params": dict(c.cell.params)} for c in found.cells]
        disk = space.as_json()
        known = {"sweep": found.sweep.name, "cells": cells, "tasks": tasks, "disk": disk, "absent": absent(found)}
        print_json({**known, "site": told or None})
        return
    out.print(cells_table(found))
    out.print(counts_table(tasks))
    out.print(shape(found))
    out.print(space.words(found.sweep.keep), soft_wrap=True)
    for line in absent(found):
        out.print(f"not on this machine: {line}", markup=False, soft_wrap=True)
    if repeated:
        lost = "have scores, but no samples or features any more, and are sampled again for what is missing"
        out.print(f"{repeated:,} cells {lost} (keep: {found.sweep.keep}).", soft_wrap=True)
    if arrays is not None:
        out.print(arrays)
        out.print(words, markup=False, soft_wrap=True)


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
    from orchestrator import ray_jobs
    from orchestrator.backends.slurm.ledger import queue_states
    from orchestrator.plan import Done
    from orchestrator.report.progress import counts, counts_table
    from orchestrator.report.results import collect
    from orchestrator.report.terminal import failure
    from orchestrator.site import read_site

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


@command
def run(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core by default.")] = None,
    device: DeviceOption = "auto",
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    cell: CellOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: this many samples.")] = None,
    here: Annotated[bool, typer.Option("--here", help="In this process, with full tracebacks: for debugging.")] = False,
    micro_batch: Annotated[int, typer.Option(min=1, help="Samples in the network at once.")] = 256,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Time between checkpoints of a training.", callback=finite)
    ] = 30.0,
    site: SiteOption = None,
    backend: Annotated[str, typer.Option(help="local, or ray: a private Ray on this machine.")] = "local",
    processes: Annotated[int, typer.Option(min=1, help="Processes that train one network together.")] = 1,
    max_gpu_hours: HoursOption = None,
) -> int:
    """Do what is missing of a sweep, then compare. To resume, extend or repair, run the same command again."""
    from orchestrator import engine
    from orchestrator.backends import Backend
    from orchestrator.backends.here import Here
    from orchestrator.backends.local import Local
    from orchestrator.backends.ray import Ray
    from orchestrator.cluster import begin, divided, opener, patiently
    from orchestrator.cluster_commands import Reconcile
    from orchestrator.report.progress import watch
    from orchestrator.report.results import collect
    from orchestrator.site import read_site
    from orchestrator.tasks import Options
    from orchestrator.tracking import NONE, follow
    from orchestrator.tracking import check as check_tracking

    check_tracking(tracking)
    place = read_site(site) if site else None
    check_device(device, processes)
    if backend not in ("local", "ray"):
        raise BadInput(f"--backend: {unknown('backend', backend, ['local', 'ray'])}")
    if count is not None and cell is None:
        raise BadInput("--count goes with --cell; for a whole sweep, set sample.count in its file")
    if place and (here or workers or device != "auto" or backend != "local" or processes > 1):
        words = "--here, --workers, --device, --backend and --processes are for this machine"
        raise BadInput(f"{words}; a site's file has its own")
    if here and (workers or backend != "local" or processes > 1):
        raise BadInput("--here is this process alone; --workers, --backend and --processes do not go with it")
    if max_gpu_hours is not None and not (place and place.kind == "slurm"):
        raise BadInput(UNCOUNTED)
    found = read_plan(sweep, smoke, arm, cell, count)
    opened = open_store(absolute(store) if place else store)
    number = 1 if here else workers or len(os.sched_getaffinity(0))
    divided(found, processes, f"--processes is {processes}")
    options = Options(device=device, micro_batch=micro_batch, checkpoint_s=checkpoint_seconds, processes=processes)

    outermost.tracebacks_wanted = here

    def make() -> Backend:
        if here:
            return Here(opened, options, raises=True)
        return Ray(opened, options, cpus=number) if backend == "ray" else Local(opened, number, options)

    if cell:
        tracking = NONE  # a cell for debugging is no part of the sweep's comparison
    with follow(lambda: collect(found, opened), tracking, opened), watch(err, found, opened) as observer:
        if place:
            given = {"micro_batch": micro_batch, "checkpoint_s": checkpoint_seconds}
            folder = str(report_folder(found).absolute())
            begun = begin(
                found, opened, place, tracking, folder, arm, smoke, max_gpu_hours=max_gpu_hours, options=given
            )
            at_site = opener(found, opened, place, begun, observer.note, Reconcile)
            do = functools.partial(engine.run, found, opened, at_site, observer, begun.since)
            do() if place.kind == "local" else patiently(do, observer.note)
        else:
            engine.run(found, opened, make, observer)
    return compare_and_report(found, opened, store, tracking)


@command
def report(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> int:
    """Compare what is done, with what is missing and what failed."""
    from orchestrator.report.document import document
    from orchestrator.report.results import collect
    from orchestrator.tracking import check as check_tracking

    check_tracking(tracking)
    found, opened = read_plan(sweep, smoke, arm), open_store(store)
    if not as_json:
        return compare_and_report(found, opened, store, tracking)
    results = collect(found, opened)
    track(results, opened, tracking, report_pages(found))
    print_json(document(results, opened))
    return 0 if all(cell.complete for cell in results.cells) else 1


@command
def logs(
    sweep: SweepArgument,
    cell: Annotated[str | None, typer.Argument(help="Only what this cell needs: the start of its digest.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    site: SiteOption = None,
) -> None:
    """Show the logs of local tasks: the last line of each, or all of those of a cell."""
    from orchestrator import logs as written
    from orchestrator import ray_jobs
    from orchestrator.plan import find_cell
    from orchestrator.site import read_site

    found, opened = read_plan(sweep, smoke), open_store(store)
    place = read_site(site) if site else None
    if place and place.kind == "ray":
        out.print(ray_jobs.logs(found.sweep.name, opened, place), markup=False, soft_wrap=True)
        return
    chosen = find_cell(found, cell) if cell else None
    if follow:
        for task, line in written.follow(found, opened, chosen):
            out.print(f"{task.kind} {task.digest[:12]}  {line}", markup=False, soft_wrap=True)
    known = written.logs(found, opened, chosen)
    for log in known:
        if chosen:
            out.print(
                f"== {log.task.kind} {log.task.digest[:12]}  {log.path}", style="bold", markup=False, soft_wrap=True
            )
            out.print(log.text.rstrip(), markup=False, soft_wrap=True)
        else:
            out.print(f"{log.task.kind:<9} {log.task.digest[:12]}  {log.last}", markup=False, soft_wrap=True)
    if not known:
        out.print(f"No logs of this sweep in {opened.logs}.", markup=False, soft_wrap=True)


@command
def ui(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The first port to try, on 127.0.0.1.")] = 5000,
    smoke: SmokeOption = False,
) -> None:
    """Open the sweep's runs in MLflow, on this machine only, until Ctrl-C."""
    from orchestrator.report.results import collect
    from orchestrator.tracking import NONE, check, sync
    from orchestrator.tracking.ui import ui as serve

    check(tracking)
    if tracking == NONE:
        raise BadInput("--tracking none: there is nothing to look at. Name a database or a server.")
    found, opened = read_plan(sweep, smoke), open_store(store)
    with err.status("Starting MLflow..."):
        sync(collect(found, opened), tracking, opened, report_pages(found))
        server = contextlib.ExitStack()
        served = server.enter_context(serve(found.sweep.name, tracking, port))
    with server, _until_interrupted():
        if served.moved:
            err.print(f"Port {port} is taken; using {served.port}.")
        out.print(f"charts: {served.link}\ntable:  {served.table}\nCtrl-C ends it.", markup=False, soft_wrap=True)
        served.wait()


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how this ends, not an interruption of it."""
    try:
        yield
    except KeyboardInterrupt:
        interrupts.obeyed()


@command
def init(path: Annotated[str, typer.Argument(metavar="NEW.yaml")] = "sweeps/first.yaml") -> None:
    """Write a commented sweep to start from, and the JSON schema for editors."""
    from orchestrator.starter import starter

    for written in starter(path):
        out.print(f"wrote {written}", markup=False, soft_wrap=True)
    out.print(f"Next: nagbench check {path}, then nagbench run {path} --smoke", markup=False, soft_wrap=True)


@command
def doctor(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP.yaml]", help="Check this sweep as well.")] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    as_json: JsonOption = False,
    site: SiteOption = None,
) -> int:
    """Say what this machine has, or with --site what a cluster can do, what is missing, and the fix."""
    from orchestrator import doctor as machine
    from orchestrator import site_doctor
    from orchestrator.site import read_site

    found = read_plan(sweep) if sweep else None
    place = read_site(site) if site else None
    if place and place.kind != "local":
        with err.status("Asking the cluster..."):
            rows = list(site_doctor.look(place, open_store(absolute(store)), found))
    else:
        with err.status("Looking at this machine..."):
            rows = machine.doctor(store, tracking, machine.missing_weights(found) if found else ())
    print_json(machine.as_json(rows)) if as_json else out.print(machine.table(rows))
    return machine.exit_code(rows)
