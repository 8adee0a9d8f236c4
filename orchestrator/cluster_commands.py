"""The commands for clusters: queueing a sweep and leaving, ending it, and what a reconcile job runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.app import command, err, open_store, out, print_json, read_plan, report_folder, track
from orchestrator.backends.slurm.ledger import tidy
from orchestrator.cluster import Campaign, begin, check_batches, opener, owner, patiently, tracking_of
from orchestrator.errors import BadInput, EnvironmentProblem, Passing
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.options import (
    UNCOUNTED,
    ArmOption,
    CellOption,
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
from orchestrator.report.words import plural
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.plan import Plan
    from orchestrator.site import Site
    from orchestrator.store import Store


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
    from orchestrator import engine
    from orchestrator.report.progress import Lines
    from orchestrator.site import read_site
    from orchestrator.tracking import check as check_tracking

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


@dataclass(frozen=True)
class Reconcile:
    """Called by submitit on a CPU node, after a wave; strings and numbers only."""

    campaign: Mapping[str, Any]

    def __call__(self, index: int) -> int:
        return reconcile(Campaign(**self.campaign))


def reconcile(begun: Campaign) -> int:
    """Advance a campaign: take in what has ended, queue what is missing, bring report and MLflow server up to date."""
    from orchestrator import engine
    from orchestrator.plan import plan, plan_checksum
    from orchestrator.report.comparisons import compare
    from orchestrator.report.progress import Lines
    from orchestrator.report.results import collect
    from orchestrator.report.write import write_report
    from orchestrator.site import read_site
    from orchestrator.spec import read_sweep

    observer = Lines(err)
    sweep = read_sweep(begun.sweep, smoke=begun.smoke, text=begun.text)
    found, opened = plan(sweep, frozenset(begun.arms) or None), open_store(begun.store)
    if plan_checksum(found) != begun.plan:
        observer.note("what the sweep names has changed since it was submitted; nagbench submit goes on with the new")
        return 2
    site = read_site(begun.site)
    make = opener(found, opened, site, begun, observer.note, Reconcile)
    code, away = 0, None

    def advance() -> tuple[int, dict[str, str]]:
        made: list[Any] = []

        def backend() -> Any:
            made.append(make())
            return made[0]

        ended = engine.advance(found, opened, backend, observer, begun.since)
        if any(each.jobs.unsure for each in made):
            raise Passing("Slurm does not say what became of some elements")
        return ended

    try:
        flying, failed = patiently(advance, observer.note)
        observer.note(f"generation {begun.generation}: {flying} bundles on their way, {len(failed)} tasks failed")
        code = 1 if failed else 0
        if not flying:
            tidy(opened, sweep.name)
    except EnvironmentProblem as error:  # what is done by now is reported all the same
        observer.note(str(error))
        code, away = error.exit_code, error if isinstance(error, Passing) else None
    results = collect(found, opened)
    pages = None
    try:
        page = write_report(
            results, compare(results, opened), opened, Path(begun.reports), f"nagbench submit {sweep.path}"
        )
        pages = page.parent
    except (OSError, EnvironmentProblem) as error:
        observer.note(f"no report: {error}")
    try:
        tracking = tracking_of(begun)
        if tracking.startswith(("http://", "https://")):  # a file is written on the user's host only
            track(results, opened, tracking, pages)
    except EnvironmentProblem as error:
        observer.note(f"not tracked: {error}")
    if away is not None:
        raise away  # this job has failed, so the one that waits for that tries again
    return code


def _ray_submitted(found: Plan, opened: Store, place: Site, options: dict[str, Any], as_json: bool) -> int:
    from orchestrator import ray_jobs
    from orchestrator.tasks import Options

    job, new = ray_jobs.submit(found, opened, place, Options(**{"device": "auto", **options}))
    if as_json:
        print_json({"sweep": found.sweep.name, "job": job.id, "status": job.status, "new": new})
    else:
        out.print(f"{'Submitted' if new else 'There already'}: Ray job {job.id} ({job.status.lower()})", markup=False)
    return 0


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
    from orchestrator import ray_jobs
    from orchestrator.backends.slurm.commands import Commands
    from orchestrator.backends.slurm.jobs import Jobs
    from orchestrator.backends.slurm.ledger import end
    from orchestrator.plan import needs_only
    from orchestrator.site import read_site

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


def forecast_table(found: Plan, opened: Store, place: Site) -> tuple[Table, str, dict[str, Any]]:
    """What `plan --site` shows: the arrays by kind, one line of what it will take, and the same for machines."""
    from rich import box
    from rich.table import Table

    from orchestrator.forecast import forecast

    check_batches(found, place)
    expected = forecast(found, opened, place.settings)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "arrays", "elements", "at once", "longest", "GPU hours"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    rows = []
    for kind in dict.fromkeys(array.kind for array in expected.arrays):
        of = [array for array in expected.arrays if array.kind == kind]
        gpu_s = sum(array.seconds * array.resources.gpus * array.resources.nodes for array in of)
        elements = sum(len(array.elements) for array in of)
        longest = max(array.seconds / len(array.elements) for array in of)
        at_once = sum(min(array.throttle, len(array.elements)) for array in of)
        rows.append({"stage": kind, "arrays": len(of), "elements": elements, "gpu_hours": round(gpu_s / 3600, 3)})
        table.add_row(
            kind, f"{len(of):,}", f"{elements:,}", f"{at_once:,}", f"{longest / 60:.1f} min", f"{gpu_s / 3600:,.2f}"
        )
    words = (
        f"{plural(len(expected.arrays), 'array')}, {plural(expected.elements, 'element')}, "
        f"{expected.gpu_hours:,.2f} GPU hours, {expected.makespan_s / 3600:,.2f} hours if nobody else is in the queue."
    )
    if expected.guessed:
        words += f" The time of {', '.join(expected.guessed)} is a guess: nothing of that sort was measured yet."
    told = {
        "stages": rows,
        "gpu_hours": round(expected.gpu_hours, 3),
        "makespan_seconds": round(expected.makespan_s),
        "guessed": list(expected.guessed),
    }
    return table, words, told
