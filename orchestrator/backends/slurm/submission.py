"""Open the Slurm backend for a sweep."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.campaign import check_store, shared_folder
from orchestrator.backends.sharing import group_of
from orchestrator.backends.slurm.backend import Slurm
from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.owner import owner
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.sbatch import NoRoom
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE, record_next
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.store.folders import closed_to_others, umask

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.site import Site
    from orchestrator.backends.slurm.backend import AfterWave
    from orchestrator.plan.model import StoredPlan
    from orchestrator.store.store import Store


def open_slurm(
    plan: StoredPlan, store: Store, site: Site, campaign: Campaign, note: Callable[[str], None], remote: Remote
) -> Callable[[], Slurm]:
    """A function that makes the backend. It raises BadInput or EnvironmentProblem before anything is queued."""

    def make() -> Slurm:
        check_store(store)
        folder = shared_folder(store, site)
        commands = Commands(clusters=site.settings.clusters)
        check_partitions(site, commands)
        try:
            with closed_to_others():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(f"cannot create {folder}: {error.strerror}") from error
        code = snapshot(folder, group=group_of(site))
        settings = site.settings
        record = {
            "owner": owner(),
            "uid": os.getuid(),
            "cluster": commands.cluster(),
            "file": campaign.sweep,
            "host": platform.node(),
            "generation": campaign.generation,
            "since": campaign.since,
            "site": site.name,
            "pid": os.getpid(),
            "clusters": settings.clusters or "",
            "target_minutes": settings.target_minutes,
        }
        options = {**campaign.options, "signal_s": settings.signal_s, "stagger_s": settings.stagger_s}
        options |= {"lost_after_s": settings.lost_after_s, "visible_after_s": settings.visible_after_s}
        options |= {"umask": umask()}
        options |= {"scratch": settings.scratch} if settings.scratch else {}
        options |= {"mps": True} if settings.mps else {}
        after = None
        if settings.reconcile == "job":
            queued = functools.partial(record_next, store, plan.sweep.name)
            after = _reconciler(site, folder, code, campaign, note, remote, queued)
        hours = campaign.max_gpu_hours
        return Slurm(store, plan, settings, folder, code, commands, note, record, options, after, hours)

    return make


def _reconciler(
    site: Site,
    folder: Path,
    code: Path,
    campaign: Campaign,
    note: Callable[[str], None],
    remote: Remote,
    queued: Callable[[Sequence[str]], None],
) -> AfterWave:
    """A function that queues the job that continues. queued: called with the ids of such jobs."""
    settings = site.settings

    def after_wave(stem: str, jobs: Sequence[str]) -> None:
        """Queue the job that continues when these have ended."""
        if campaign.generation >= settings.generations_at_most:
            note(f"generation {campaign.generation} is the last (generations_at_most); run the same command to go on")
            return
        following = dataclasses.replace(campaign, generation=campaign.generation + 1)
        work, resources, name = remote(dataclasses.asdict(following)), settings.resources("reconcile"), stem + RECONCILE
        job = queue(settings, folder / name, code, name, resources, work, 1, after=jobs)
        queued([job])
        note(f"queued reconcile: job {job}, after them ({name})")
        name = stem + INSTEAD  # Slurm drops it if the other succeeds
        try:
            queued([queue(settings, folder / name, code, name, resources, work, 1, after=[job], when="afternotok")])
        except NoRoom:
            note(f"no room for a job that stands in for {job} if it fails; should that happen, run the same command")

    return after_wave


def check_partitions(site: Site, commands: Commands) -> None:
    """Raise BadInput if the cluster does not have a site's partitions, or their time limits are below its own."""
    settings, partitions = site.settings, commands.partitions()
    default = next((name for name, partition in partitions.items() if partition.default), None)
    for where, stage, resources in settings.all_resources():
        wanted = settings.partition_of(resources.gpus) or default
        if wanted is None:
            raise BadInput(
                f"{site.path}: partition is missing, and the cluster has no default. It has: {_list(partitions)}."
            )
        key = "partition" if resources.gpus or settings.cpu_partition is None else "cpu_partition"
        for name in wanted.split(","):
            if name not in partitions:
                raise BadInput(
                    f"{site.path}: {key}: the cluster has no partition {name!r}. It has: {_list(partitions)}."
                )
            limit = partitions[name].max_minutes
            if limit is not None and math.ceil(resources.minutes) > limit:
                raise BadInput(
                    f"{site.path}: {where}.{stage}.minutes is {resources.minutes:g}, but partition {name} ends jobs "
                    f"after {limit:g}; such a job would never start"
                )


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
