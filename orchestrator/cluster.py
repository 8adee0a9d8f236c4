"""A sweep at a site: the backend of each kind of site; on Slurm, queueing it and leaving, and going on after a wave.

`reconcile: job`: after each wave a short job advances the same engine, so that repairs, and what had to wait for a
measured speed or for room in the queue, need nobody. `reconcile: manual`: all is queued at once, and the same command
repairs.
"""

from __future__ import annotations

import dataclasses
import getpass
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nag.distributed import World
from orchestrator.backends import Backend
from orchestrator.backends.local import Local
from orchestrator.backends.ray import Ray
from orchestrator.backends.slurm import AfterWave, Slurm
from orchestrator.backends.slurm.commands import Absent, Commands
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, Passing
from orchestrator.plan import Plan, plan_checksum
from orchestrator.site import STAGES, Site
from orchestrator.snapshot import snapshot
from orchestrator.store import Store
from orchestrator.tasks import Options

PATIENCE_S, WAIT_S = 600.0, 10.0  # of an engine that nobody watches, with what is away

T = TypeVar("T")


@dataclass(frozen=True)
class Campaign:
    """What a user's command began, and what every reconcile job after it goes on with. Paths are absolute."""

    sweep: str
    store: str
    site: str
    tracking: str
    reports: str  # the folder of the sweep's report
    since: float  # attempts from this time on count
    plan: str = ""  # checksum of the plan: a reconcile job goes on with what was submitted, or not at all
    text: str = ""  # the YAML as it was
    smoke: bool = False
    arms: tuple[str, ...] = ()
    generation: int = 1
    max_gpu_hours: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of orchestrator.tasks.Options


def begin(
    plan: Plan,
    store: Store,
    site: Site,
    tracking: str,
    reports: str,
    arms: Sequence[str] | None,
    smoke: bool,
    **more: Any,
) -> Campaign:
    """What a user's command begins, here and now. Raises BadInput where the site cannot train what is to be trained."""
    check_batches(plan, site)
    if site.kind == "slurm":
        tracking = _set_apart(tracking, plan.sweep.name, lambda: shared_folder(store, site))
    return Campaign(
        sweep=os.path.abspath(plan.sweep.path),
        store=store.url,
        site=os.path.abspath(site.path),
        tracking=tracking,
        reports=reports,
        since=time.time(),
        plan=plan_checksum(plan),
        text=plan.sweep.text,
        smoke=smoke,
        arms=tuple(arms or ()),
        **more,
    )


APART = "file-with-address:"  # a Campaign's tracking, where the address has a secret


def _set_apart(tracking: str, sweep: str, folder: Callable[[], Path]) -> str:
    """What a submission may hold of an address: it is pickled into files, so one with a password or a token goes into a
    file that only the user can read.
    """
    if address(tracking) == tracking:
        return tracking
    if not tracking.startswith(("http://", "https://")):
        return address(tracking)  # of a database, which only the user's host writes to
    place = folder()
    path = place / f"tracking-{sweep}"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(tracking)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}.") from error
    return f"{APART}{path.absolute()}"


def tracking_of(campaign: Campaign) -> str:
    """Where the runs of a campaign are tracked. Raises EnvironmentProblem where the file with the address is gone, or
    is not the user's own.
    """
    if not campaign.tracking.startswith(APART):
        return campaign.tracking
    path = campaign.tracking.removeprefix(APART)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            stat = os.fstat(file.fileno())
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
                raise EnvironmentProblem(f"{path} is not yours alone, so it is not used for tracking.")
            return file.read()
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}.") from error


Remote = Callable[[Mapping[str, Any]], Callable[[int], Any]]  # of a campaign, what a reconcile job calls on its node


def shared_folder(store: Store, site: Site) -> Path:
    """Where code, submitit's files and the logs of elements lie; the nodes must see it."""
    if site.settings.folder is not None:
        return Path(site.settings.folder).expanduser()
    if store.local:
        return Path(store.path("cluster")).resolve()
    raise BadInput(f"{site.path}: folder is missing: store {store.url} is none, so name one that all nodes share")


def patiently(do: Callable[[], T], note: Callable[[str], None]) -> T:
    """`do()`, begun again where what stopped it on a cluster may pass: an engine goes on from what the store has.
    Raises Passing after ten minutes of that.
    """
    since = began = time.monotonic()
    while True:
        try:
            return do()
        except Passing as error:
            now = time.monotonic()
            since = now if now - began > PATIENCE_S else since  # it had gone well for long
            if now - since > PATIENCE_S or isinstance(error, Absent):
                raise
            note(f"{error}; going on in {WAIT_S:g} s")
            time.sleep(WAIT_S)
            began = time.monotonic()


def owner() -> str:
    """The user, as job names carry him."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", getpass.getuser())


def opener(
    plan: Plan, store: Store, site: Site, campaign: Campaign, note: Callable[[str], None], remote: Remote
) -> Callable[[], Backend]:
    """What makes the backend of a site, once there is something to do. It raises BadInput or EnvironmentProblem for a
    site that does not fit the cluster, before anything is queued. remote: for the job that goes on after a wave.
    """
    if site.kind == "local":
        options = Options(**{"device": "auto", "processes": site.settings.processes, **campaign.options})
        return lambda: Local(store, site.settings.workers or len(os.sched_getaffinity(0)), options)
    if site.kind == "ray":
        address = site.settings.address
        if address is None:
            raise BadInput(f"{site.path}: address is missing: HOST:6379, as `ray start --head` says it")
        return lambda: Ray(store, Options(**{"device": "auto", **campaign.options}), site.settings, address)
    return _slurm(plan, store, site, campaign, note, remote)


def _slurm(
    plan: Plan, store: Store, site: Site, campaign: Campaign, note: Callable[[str], None], remote: Remote
) -> Callable[[], Slurm]:

    def make() -> Slurm:
        if store.url.startswith("memory:"):
            raise BadInput(f"store {store.url} is of this process alone; the nodes cannot see it")
        folder = shared_folder(store, site)
        commands = Commands()
        check(site, commands)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EnvironmentProblem(f"{folder} cannot be made: {error.strerror}") from error
        code = snapshot(folder)
        settings = site.settings
        record = {
            "owner": owner(),
            "host": platform.node(),
            "generation": campaign.generation,
            "since": campaign.since,
            "site": site.name,
            "pid": os.getpid(),
        }
        options = {**campaign.options, "signal_s": settings.signal_s, "stagger_s": settings.stagger_s}
        options |= {"scratch": settings.scratch} if settings.scratch else {}
        after = _reconciler(site, folder, code, campaign, note, remote) if settings.reconcile == "job" else None
        hours = campaign.max_gpu_hours
        return Slurm(store, plan, settings, folder, code, commands, note, record, options, after, hours)

    return make


def _reconciler(
    site: Site, folder: Path, code: Path, campaign: Campaign, note: Callable[[str], None], remote: Remote
) -> AfterWave:
    settings = site.settings

    def after_wave(stem: str, jobs: Sequence[str]) -> None:
        """Queue the job that goes on when these have ended."""
        if campaign.generation >= settings.generations_at_most:
            note(
                f"generation {campaign.generation} is the last (generations_at_most); the same command goes on by hand"
            )
            return
        going_on = dataclasses.replace(campaign, generation=campaign.generation + 1)
        work, asked, name = remote(dataclasses.asdict(going_on)), settings.resources("reconcile"), stem + RECONCILE
        job = queue(settings, folder / name, code, name, asked, work, 1, after=jobs)
        note(f"queued reconcile: job {job}, after them ({name})")
        name = stem + INSTEAD  # Slurm drops it once the other has done well
        queue(settings, folder / name, code, name, asked, work, 1, after=[job], when="afternotok")

    return after_wave


def check_batches(plan: Plan, site: Site) -> None:
    """Raise BadInput for a training whose global batch the processes of the site do not divide."""
    wide = f"processes is {site.settings.trained_on}"
    if site.kind == "slurm":
        asked = site.settings.resources("train")
        wide = f"stages.train has {asked.nodes} x {asked.gpus} GPUs"
    divided(plan, site.settings.trained_on, f"{site.path}: {wide}")


def divided(plan: Plan, processes: int, said: str) -> None:
    """Raise BadInput for a training whose global batch so many processes do not divide. said: where their number is."""
    for network in plan.networks:
        try:
            World(0, processes).part(network.train.batch if network.train else 0)
        except ValueError as error:
            raise BadInput(f"{said}, and networks.{network.name}.train.batch: {error}") from error


def check(site: Site, commands: Commands) -> None:
    """Hold a site against its cluster. Raises BadInput, with the key, for what the cluster does not have."""
    settings, partitions = site.settings, commands.partitions()
    default = next((name for name, found in partitions.items() if found.default), None)
    for stage in STAGES:
        asked = settings.resources(stage)
        wanted = settings.partition_of(asked.gpus) or default
        if wanted is None:
            raise BadInput(
                f"{site.path}: partition is missing, and the cluster has no default. It has: {_list(partitions)}."
            )
        key = "partition" if asked.gpus or settings.cpu_partition is None else "cpu_partition"
        for name in wanted.split(","):
            if name not in partitions:
                raise BadInput(
                    f"{site.path}: {key}: the cluster has no partition {name!r}. It has: {_list(partitions)}."
                )
            limit = partitions[name].max_minutes
            if limit is not None and math.ceil(asked.minutes) > limit:
                raise BadInput(
                    f"{site.path}: stages.{stage}.minutes is {asked.minutes:g}, but partition {name} ends jobs after "
                    f"{limit:g}; such a job would wait for ever"
                )


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
