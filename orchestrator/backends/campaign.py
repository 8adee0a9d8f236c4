"""A campaign: what one command began at a site, and what goes on with it later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nag.distributed import World
from orchestrator.backends.slurm.commands import Unsupported
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, Passing
from orchestrator.plan.model import plan_checksum

if TYPE_CHECKING:
    from orchestrator.backends.site import Site
    from orchestrator.plan.model import Plan
    from orchestrator.store.store import Store

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
    options: Mapping[str, Any] = field(default_factory=dict)  # of orchestrator.tasks.context.Options


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
    if site.settings.writes_campaigns:
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
    """Where code, submitit's files and the logs of array tasks lie; the nodes must see it."""
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
            if now - since > PATIENCE_S or isinstance(error, Unsupported):
                raise
            note(f"{error}; going on in {WAIT_S:g} s")
            time.sleep(WAIT_S)
            began = time.monotonic()


def check_batches(plan: Plan, site: Site) -> None:
    """Raise BadInput for a training whose global batch the processes of the site do not divide."""
    divided(plan, site.settings.trained_on, f"{site.path}: {site.settings.trained_words}")


def divided(plan: Plan, processes: int, said: str) -> None:
    """Raise BadInput for a training whose global batch so many processes do not divide. said: where their number is."""
    for network in plan.networks:
        try:
            World(0, processes).part(network.train.batch if network.train else 0)
        except ValueError as error:
            raise BadInput(f"{said}, and networks.{network.name}.train.batch: {error}") from error
