"""Sites of kind slurm: submit a sweep, and show or cancel what is queued.

With `reconcile: job`, a short job after each wave runs the engine again, so that repairs, and work that waits for a
measured speed or for room in the queue, need no user. With `reconcile: manual`, all is queued at once, and the user
repairs with the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.campaign import check_batches
from orchestrator.backends.site_kind import Ended, Queued, Submitted
from orchestrator.backends.slurm.backend import Slurm
from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.doctor import doctor
from orchestrator.backends.slurm.forecast import Forecast, forecast
from orchestrator.backends.slurm.jobs import ArrayJobs
from orchestrator.backends.slurm.ledger import cancel_jobs, close_finished_waves
from orchestrator.backends.slurm.owner import owner
from orchestrator.backends.slurm.queue_state import queue_states
from orchestrator.backends.slurm.submission import open_slurm
from orchestrator.backends.slurm.waves import clusters_of
from orchestrator.execution import engine
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.doctor_rows import DoctorRow
    from orchestrator.backends.site import Site
    from orchestrator.execution.engine import Observer
    from orchestrator.plan.model import StoredPlan


class SlurmQueue:
    """The commands that need no site file, since the waves are in the store."""

    title = "Slurm"

    def status(self, sweep: str, store: Store) -> Queued:
        return queue_states(store, sweep)

    def cancel(self, plan: StoredPlan, store: Store, only: frozenset[str] | None, note: Callable[[str], None]) -> Ended:
        if not store.list(f"waves/{plan.sweep.name}"):  # nothing was ever queued, and there may be no Slurm
            return Ended(0, "array task", True)
        file = plan.sweep.path if isinstance(plan, Plan) else ""
        commands = Commands(clusters=clusters_of(store, plan.sweep.name))
        count, gone = cancel_jobs(ArrayJobs(store, plan.sweep.name, commands, note), owner(), only, file)
        return Ended(count, "array task", gone)

    def logs(self, sweep: str, store: Store) -> None:
        return None


@dataclass(frozen=True)
class SlurmSite(SlurmQueue):
    site: Site
    counts_hours = True
    far = True

    def open(
        self, plan: Plan, store: Store, campaign: Campaign, note: Callable[[str], None], remote: Remote
    ) -> Callable[[], Slurm]:
        return open_slurm(plan, store, self.site, campaign, note, remote)

    def submit(self, plan: Plan, store: Store, campaign: Campaign, observer: Observer, remote: Remote) -> Submitted:
        make = self.open(plan, store, campaign, observer.note, remote)
        backends: list[Slurm] = []

        def backend() -> Slurm:
            backends.append(make())
            return backends[0]

        flying, failed = engine.advance(plan, store, backend, observer, campaign.since)
        waiting = sum(len(each.held_back) for each in backends)  # the observer has reported what for
        words = f"{flying - waiting:,} bundles are on their way: nagbench status {plan.sweep.argument}"
        if not flying:
            close_finished_waves(store, plan.sweep.name)
            words = f"Nothing is left to queue: nagbench report {plan.sweep.argument}"
        return Submitted({"queued": flying - waiting, "waiting": waiting, "failed": failed}, words, bool(failed))

    def forecast(self, plan: Plan, store: Store) -> Forecast:
        check_batches(plan, self.site)
        return forecast(plan, store, self.site.settings)

    def doctor(self, store: str, tracking: str, plan: Plan | None) -> Iterator[DoctorRow]:
        opened = Store(store)
        opened.check_format()
        return doctor(self.site, opened, plan)
