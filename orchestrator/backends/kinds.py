"""The table of site kinds. Commands look a kind up here and call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.backends.local_site import LocalSite
from orchestrator.backends.ray.site_kind import RaySite
from orchestrator.backends.slurm.site_kind import SlurmQueue, SlurmSite

if TYPE_CHECKING:
    from orchestrator.backends.site import Site
    from orchestrator.backends.site_kind import Queue, SiteKind

KINDS: dict[str, Callable[[Site], SiteKind]] = {"slurm": SlurmSite, "ray": RaySite, "local": LocalSite}


def at(site: Site) -> SiteKind:
    return KINDS[site.kind](site)


def queue_at(site: Site | None) -> Queue:
    """The queue of a site; without one, Slurm's, whose waves are in the store."""
    return at(site) if site else SlurmQueue()
