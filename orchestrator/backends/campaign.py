"""A campaign: what one command started at a site, and what later jobs continue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nag.distributed import World
from orchestrator.backends.sharing import own_folder, share
from orchestrator.backends.slurm.commands import Unsupported
from orchestrator.backends.slurm.owner import owner
from orchestrator.backends.slurm.sbatch import NoRoom
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, TransientError
from orchestrator.plan.network_sizes import parameters_of
from orchestrator.plan.stored_plan import plan_checksum
from orchestrator.store.folders import closed_to_others, umask

if TYPE_CHECKING:
    from orchestrator.backends.site import Site
    from orchestrator.plan.model import Plan
    from orchestrator.spec.model import Network
    from orchestrator.store.store import Store

PATIENCE_S, WAIT_S = 600.0, 10.0  # how long an engine retries after transient errors, and how often
ROOM_S = 60.0  # between looks for room in the queue
T = TypeVar("T")


@dataclass(frozen=True)
class Campaign:
    """What a user's command started, and every reconcile job continues. Paths are absolute."""

    sweep: str
    store: str
    site: str
    tracking: str
    reports: str  # the folder of the sweep's report
    since: float  # only attempts from this time on count
    plan: str = ""  # checksum of the plan in the store: a reconcile job continues what was submitted, and nothing else
    site_text: str = ""  # the site file at submission
    umask: int | None = None  # of the user
    generation: int = 1
    max_gpu_hours: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of orchestrator.tasks.context.Options


def begin(
    plan: Plan,
    store: Store,
    site: Site,
    tracking: str,
    reports: str,
    **more: Any,
) -> Campaign:
    """Start a campaign. Raises BadInput for a training that the site's processes cannot do."""
    check_batches(plan, site)
    share(store, site)
    if site.settings.writes_campaigns:
        tracking = _without_secrets(tracking, plan.sweep.name, lambda: shared_folder(store, site))
    return Campaign(
        sweep=os.path.abspath(plan.sweep.path),
        store=store.url,
        site=os.path.abspath(site.path),
        tracking=tracking,
        reports=reports,
        since=time.time(),
        plan=plan_checksum(plan),
        site_text=site.text,
        umask=umask() if site.settings.writes_campaigns else None,
        **more,
    )


IN_FILE = "file-with-address:"  # prefix of a Campaign's tracking if the address has a secret


def _without_secrets(tracking: str, sweep: str, folder: Callable[[], Path]) -> str:
    """A tracking address that may be pickled into files: one with a password or a token is written into a file that
    only the user can read, and replaced by that file's name.
    """
    if address(tracking) == tracking:
        return tracking
    if not tracking.startswith(("http://", "https://")):
        return address(tracking)  # a database; only the user's host writes to it
    place = folder()
    path = place / f"tracking-{sweep}"
    try:
        with closed_to_others():
            place.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(tracking)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}.") from error
    return f"{IN_FILE}{path.absolute()}"


def tracking_of(campaign: Campaign) -> str:
    """The tracking address of a campaign. Raises EnvironmentProblem if the file with the address is gone, or others can
    read it.
    """
    if not campaign.tracking.startswith(IN_FILE):
        return campaign.tracking
    path = campaign.tracking.removeprefix(IN_FILE)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            stat = os.fstat(file.fileno())
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
                raise EnvironmentProblem(f"{path} is not yours, or others can read it; it is not used for tracking.")
            return file.read()
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}.") from error


Remote = Callable[[Mapping[str, Any]], Callable[[int], Any]]  # from a campaign, makes what a reconcile job calls


def check_store(store: Store) -> None:
    """Raise BadInput for a store that other machines cannot open."""
    if store.url.startswith("memory:"):
        raise BadInput(f"store {store.url} exists in this process only; the nodes cannot see it")


def shared_folder(store: Store, site: Site) -> Path:
    """The folder of the code, submitit's files and the logs of array tasks. The nodes must see it."""
    if site.settings.folder is not None:
        return _plain(Path(site.settings.folder).expanduser(), site)
    if store.local:
        return _plain(own_folder(Path(store.root), owner()).resolve(), site)
    raise BadInput(f"{site.path}: folder is missing. Store {store.url} is not a folder; name one that all nodes share")


def _plain(folder: Path, site: Site) -> Path:
    """The folder, if Slurm takes its name as it is. Raises BadInput."""
    found = next((sign for sign in "%\\" if sign in str(folder)), None)
    if found and site.settings.writes_campaigns:
        raise BadInput(
            f"{folder}: Slurm does not take a {found} in the name of a log's folder as it is. "
            f"Name another one for code and logs: folder in {site.path}"
        )
    return folder


def patiently(do: Callable[[], T], note: Callable[[str], None]) -> T:
    """Call `do`; retry after transient errors of a cluster: an engine goes on from what the store has. Raises the error
    if it lasts for PATIENCE_S; for room in the queue it waits without end.
    """
    since = began = time.monotonic()
    told = ""
    while True:
        try:
            return do()
        except TransientError as error:
            now = time.monotonic()
            room = isinstance(error, NoRoom)
            since = now if room or now - began > PATIENCE_S else since  # the last error was long ago
            if now - since > PATIENCE_S or isinstance(error, Unsupported):
                raise
            wait = ROOM_S if room else WAIT_S
            if not room or str(error) != told:
                note(f"{error}; going on in {wait:g} s")
            told = str(error)
            time.sleep(wait)
            began = time.monotonic()


def check_batches(plan: Plan, site: Site) -> None:
    """Raise BadInput if the site's processes do not divide the global batch of a training."""
    for network in plan.networks:
        which = network.name, parameters_of(network.model)
        _check_divides(network, site.settings.trained_on(*which), f"{site.path}: {site.settings.trained_words(*which)}")


def check_divides(plan: Plan, processes: int, setting: str) -> None:
    """Raise BadInput if `processes` does not divide the global batch of a training. setting: names that number."""
    for network in plan.networks:
        _check_divides(network, processes, setting)


def _check_divides(network: Network, processes: int, setting: str) -> None:
    try:
        World(0, processes).part(network.train.batch if network.train else 0)
    except ValueError as error:
        raise BadInput(f"{setting}, and networks.{network.name}.train.batch: {error}") from error
