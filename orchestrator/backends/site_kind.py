"""The interface of a kind of site. Each kind is a class in a file of its own; the table of them is in kinds.py.

Kinds return results; only commands print them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.doctor_rows import DoctorRow
    from orchestrator.backends.slurm.forecast import Forecast
    from orchestrator.execution.engine import Observer
    from orchestrator.execution.protocol import Backend
    from orchestrator.plan.model import Plan, StoredPlan
    from orchestrator.store.store import Store


@dataclass(frozen=True)
class Queued:
    """What is queued or runs for a sweep."""

    array_tasks: dict[str, dict[str, int]] = field(default_factory=dict)  # kind of task -> state -> how many
    jobs: tuple[dict[str, str], ...] = ()  # id and status of each
    unknown: str | None = None  # why it is not known
    notes: tuple[str, ...] = ()  # why it waits, and what waits outside of the queue
    stopped: str = ""  # why nothing will continue the sweep, should it not be finished


@dataclass(frozen=True)
class Submitted:
    told: dict[str, Any]  # for --json
    words: str  # for the terminal
    failed: bool = False


@dataclass(frozen=True)
class Ended:
    count: int
    what: str  # was cancelled: "array task", "Ray job"
    gone: bool = True  # False: some still run


class Queue(Protocol):
    """The commands for what is queued."""

    @property
    def title(self) -> str: ...  # its name in messages

    def status(self, sweep: str, store: Store) -> Queued: ...

    def cancel(
        self, plan: StoredPlan, store: Store, only: frozenset[str] | None, note: Callable[[str], None]
    ) -> Ended: ...  # only: these tasks; None for all

    def logs(self, sweep: str, store: Store) -> str | None: ...  # None: they are files, one per task or array task


class SiteKind(Queue, Protocol):
    @property
    def counts_hours(self) -> bool: ...  # whether --max-gpu-hours works

    @property
    def far(self) -> bool: ...  # whether it can have transient errors, as a cluster can

    def open(
        self, plan: Plan, store: Store, campaign: Campaign, note: Callable[[str], None], remote: Remote
    ) -> Callable[[], Backend]:
        """A function that makes the backend, called once there is work. It raises BadInput or EnvironmentProblem for a
        site that does not fit the cluster, before anything is queued. remote: makes the work of a reconcile job.
        """

    def submit(self, plan: Plan, store: Store, campaign: Campaign, observer: Observer, remote: Remote) -> Submitted: ...

    def forecast(self, plan: Plan, store: Store) -> Forecast | None: ...  # None: there is no forecast

    def doctor(self, store: str, tracking: str, plan: Plan | None) -> Iterable[DoctorRow]: ...
