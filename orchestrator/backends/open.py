"""A sweep at a site: the backend of each kind of site; on Slurm, queueing it and leaving, and going on after a wave.

`reconcile: job`: after each wave a short job advances the same engine, so that repairs, and what had to wait for a
measured speed or for room in the queue, need nobody. `reconcile: manual`: all is queued at once, and the same command
repairs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.backends.local import Local
from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.slurm.submission import _slurm
from orchestrator.errors import BadInput
from orchestrator.tasks.context import Options

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.site import Site
    from orchestrator.execution.protocol import Backend
    from orchestrator.plan.model import Plan
    from orchestrator.store.store import Store


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
