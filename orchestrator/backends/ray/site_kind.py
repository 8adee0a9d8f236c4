"""Sites of kind ray: a submitted sweep is one Ray job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.ray import jobs
from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.ray.doctor import doctor
from orchestrator.backends.site_kind import Ended, Queued, Submitted
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from orchestrator.tracking.address import NONE

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.doctor_rows import DoctorRow
    from orchestrator.backends.site import Site
    from orchestrator.execution.engine import Observer
    from orchestrator.plan.model import Plan, StoredPlan


@dataclass(frozen=True)
class RaySite:
    site: Site
    title = "Ray"
    counts_hours = False
    far = True

    def open(
        self, plan: Plan, store: Store, campaign: Campaign, note: Callable[[str], None], remote: Remote
    ) -> Callable[[], Ray]:
        address = self.site.settings.address
        if address is None:
            raise BadInput(f"{self.site.path}: address is missing: HOST:6379, as `ray start --head` prints it")
        options = Options(**{"device": "auto", **campaign.options})
        return lambda: Ray(store, options, self.site.settings, address, note=note)

    def submit(self, plan: Plan, store: Store, campaign: Campaign, observer: Observer, remote: Remote) -> Submitted:
        if campaign.tracking != NONE:
            words = (
                f"the job tracks nothing; `nagbench report {plan.sweep.name}` here syncs {address(campaign.tracking)}"
            )
            observer.note(words)
        job, new = jobs.submit(plan, store, self.site, Options(**{"device": "auto", **campaign.options}))
        words = f"{'Submitted' if new else 'Already submitted'}: Ray job {job.id} ({job.status.lower()})"
        return Submitted({"job": job.id, "status": job.status, "new": new}, words)

    def status(self, sweep: str, store: Store) -> Queued:
        try:
            ray_jobs = jobs.status(sweep, store, self.site)
        except EnvironmentProblem as error:
            return Queued(unknown=str(error))
        return Queued(jobs=tuple({"id": job.id, "status": job.status, "message": job.message} for job in ray_jobs))

    def cancel(self, plan: StoredPlan, store: Store, only: frozenset[str] | None, note: Callable[[str], None]) -> Ended:
        if only is not None:
            raise BadInput("--arm, --cell: a Ray job runs the whole sweep; cancel it without them.")
        return Ended(len(jobs.cancel(plan.sweep.name, store, self.site)), "Ray job")

    def logs(self, sweep: str, store: Store) -> str:
        return jobs.logs(sweep, store, self.site)

    def forecast(self, plan: Plan, store: Store) -> None:
        return None

    def doctor(self, store: str, tracking: str, plan: Plan | None) -> Iterator[DoctorRow]:
        opened = Store(store)
        opened.check_format()
        return doctor(self.site, opened, plan)
