"""Reconcile: the short job after each wave of arrays that continues the campaign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.campaign import Campaign, patiently, tracking_of
from orchestrator.backends.kinds import at
from orchestrator.backends.slurm.ledger import close_finished_waves
from orchestrator.errors import EnvironmentProblem, Passing


@dataclass(frozen=True)
class Reconcile:
    """Called by submitit on a CPU node after a wave. campaign: the fields of a Campaign."""

    campaign: Mapping[str, Any]

    def __call__(self, index: int) -> int:
        return reconcile(Campaign(**self.campaign))


def reconcile(begun: Campaign) -> int:
    """Advance a campaign: process what has ended, queue what is missing, update the report and the MLflow server."""
    from rich.console import Console

    from orchestrator.backends.site import read_site
    from orchestrator.execution import engine
    from orchestrator.plan.make import plan
    from orchestrator.plan.model import plan_checksum
    from orchestrator.report.comparisons import compare
    from orchestrator.report.progress import Lines
    from orchestrator.report.results import collect
    from orchestrator.report.write import write_report
    from orchestrator.spec.reader import read_sweep
    from orchestrator.store.store import Store
    from orchestrator.tracking.sync import sync

    observer = Lines(Console(stderr=True, highlight=False, soft_wrap=True))
    sweep = read_sweep(begun.sweep, smoke=begun.smoke, text=begun.text)
    found, opened = plan(sweep, frozenset(begun.arms) or None), Store(begun.store, observer.note)
    opened.check_format()
    if plan_checksum(found) != begun.plan:
        observer.note("files of the sweep have changed since it was submitted; run nagbench submit to use the new ones")
        return 2
    site = read_site(begun.site)
    make = at(site).open(found, opened, begun, observer.note, Reconcile)
    code, away = 0, None

    def advance() -> tuple[int, dict[str, str]]:
        made: list[Any] = []

        def backend() -> Any:
            made.append(make())
            return made[0]

        ended = engine.advance(found, opened, backend, observer, begun.since)
        if any(each.jobs.unsure for each in made):
            raise Passing("Slurm cannot say yet how some array tasks ended")
        return ended

    try:
        flying, failed = patiently(advance, observer.note)
        observer.note(f"generation {begun.generation}: {flying} bundles on their way, {len(failed)} tasks failed")
        code = 1 if failed else 0
        if not flying:
            close_finished_waves(opened, sweep.name)
    except EnvironmentProblem as error:  # still report what is done
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
        if tracking.startswith(("http://", "https://")):  # only the user's host writes to a file
            sync(results, tracking, opened, pages)
    except EnvironmentProblem as error:
        observer.note(f"not tracked: {error}")
    if away is not None:
        raise away  # so that this job fails, and the one that waits for its failure tries again
    return code
