"""Reconcile: the short job after each wave of arrays that continues the campaign."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.campaign import Campaign, patiently, tracking_of
from orchestrator.backends.slurm.ledger import close_finished_waves
from orchestrator.backends.slurm.submission import open_slurm
from orchestrator.errors import CorruptFile, EnvironmentProblem, TransientError


@dataclass(frozen=True)
class Reconcile:
    """Called by submitit on a CPU node after a wave. campaign: the fields of a Campaign."""

    campaign: Mapping[str, Any]

    def __call__(self, index: int) -> int:
        if (umask := self.campaign.get("umask")) is not None:  # the job was submitted with a stricter one
            os.umask(umask)
        return reconcile(Campaign(**self.campaign))


def reconcile(campaign: Campaign) -> int:
    """Advance a campaign: process what has ended, queue what is missing, update the report and the MLflow server."""
    from rich.console import Console

    from orchestrator.backends.site import read_site
    from orchestrator.execution import engine
    from orchestrator.plan.stored_plan import read_plan
    from orchestrator.report.comparisons import compare
    from orchestrator.report.live import Lines
    from orchestrator.report.results import collect
    from orchestrator.report.write import write_report
    from orchestrator.store.store import Store
    from orchestrator.tracking.sync import sync

    observer = Lines(Console(stderr=True, highlight=False, soft_wrap=True))
    store = Store(campaign.store, observer.note)
    store.check_format()
    try:
        planned = read_plan(store, campaign.plan)  # not the user's files, which may have been edited since
    except CorruptFile as error:
        observer.note(f"{error}; run nagbench submit to go on")
        return 2
    site = read_site(campaign.site, campaign.site_text)
    make = open_slurm(planned, store, site, campaign, observer.note, Reconcile)
    code, away = 0, None

    def advance() -> tuple[int, dict[str, str]]:
        backends: list[Any] = []

        def backend() -> Any:
            backends.append(make())
            return backends[0]

        ended = engine.advance(planned, store, backend, observer, campaign.since)
        if any(each.jobs.unsure for each in backends):
            raise TransientError("Slurm cannot say yet how some array tasks ended")
        return ended

    try:
        flying, failed = patiently(advance, observer.note)
        observer.note(f"generation {campaign.generation}: {flying} bundles on their way, {len(failed)} tasks failed")
        code = 1 if failed else 0
        if not flying:
            close_finished_waves(store, planned.sweep.name)
    except EnvironmentProblem as error:  # still report what is done
        observer.note(str(error))
        code, away = error.exit_code, error if isinstance(error, TransientError) else None
    results = collect(planned, store)
    pages = None
    try:
        page = write_report(
            results, compare(results, store), store, Path(campaign.reports), f"nagbench submit {campaign.sweep}"
        )
        pages = page.parent
    except (OSError, EnvironmentProblem) as error:
        observer.note(f"no report: {error}")
    try:
        tracking = tracking_of(campaign)
        if tracking.startswith(("http://", "https://")):  # only the user's host writes to a file
            sync(results, tracking, store, pages)
    except EnvironmentProblem as error:
        observer.note(f"not tracked: {error}")
    if away is not None:
        raise away  # so that this job fails, and the one that waits for its failure tries again
    return code
