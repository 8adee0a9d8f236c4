"""Sites of kind local: this machine, where nothing is queued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from orchestrator.backends.cards import default_workers
from orchestrator.backends.doctor_rows import missing_weights
from orchestrator.backends.local import Local
from orchestrator.backends.local_doctor import doctor
from orchestrator.backends.site_kind import Queued
from orchestrator.errors import BadInput
from orchestrator.tasks.context import Options

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.doctor_rows import DoctorRow
    from orchestrator.backends.site import Site
    from orchestrator.execution.engine import Observer
    from orchestrator.plan.model import Plan, StoredPlan
    from orchestrator.store.store import Store


@dataclass(frozen=True)
class LocalSite:
    site: Site
    title = "this machine"
    counts_hours = False
    far = False

    def open(
        self, plan: Plan, store: Store, campaign: Campaign, note: Callable[[str], None], remote: Remote
    ) -> Callable[[], Local]:
        settings = self.site.settings
        options = Options(**{"device": "auto", "processes": settings.processes, **campaign.options})
        return lambda: Local(store, settings.workers or default_workers(options.device, settings.per_gpu), options)

    def submit(self, plan: Plan, store: Store, campaign: Campaign, observer: Observer, remote: Remote) -> NoReturn:
        raise BadInput(f"{self.site.path}: kind 'local' has no queue; nagbench run --site does the sweep there.")

    def status(self, sweep: str, store: Store) -> Queued:
        return Queued()

    def cancel(
        self, plan: StoredPlan, store: Store, only: frozenset[str] | None, note: Callable[[str], None]
    ) -> NoReturn:
        raise BadInput(f"{self.site.path}: nothing is queued at a site of kind 'local'; Ctrl-C ends a run there.")

    def logs(self, sweep: str, store: Store) -> None:
        return None

    def forecast(self, plan: Plan, store: Store) -> None:
        return None

    def doctor(self, store: str, tracking: str, plan: Plan | None) -> list[DoctorRow]:
        return doctor(store, tracking, missing_weights(plan) if plan else ())
