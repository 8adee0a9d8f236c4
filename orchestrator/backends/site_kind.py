"""What a kind of site can do. Each kind is a class of one file; the table of them is in kinds.py.

A kind answers with what it found. Only commands print it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator.backends.campaign import Campaign, Remote
    from orchestrator.backends.doctor_rows import Row
    from orchestrator.backends.slurm.forecast import Forecast
    from orchestrator.execution.engine import Observer
    from orchestrator.execution.protocol import Backend
    from orchestrator.plan.model import Plan
    from orchestrator.store.store import Store


@dataclass(frozen=True)
class Queued:
    """What is on its way for a sweep."""

    array_tasks: dict[str, dict[str, int]] = field(default_factory=dict)  # by kind of task and state
    jobs: tuple[dict[str, str], ...] = ()  # each id and status
    unknown: str | None = None  # why it is not known


@dataclass(frozen=True)
class Submitted:
    told: dict[str, Any]  # for machines
    words: str  # for people
    failed: bool = False


@dataclass(frozen=True)
class Ended:
    count: int
    what: str  # an array task, a Ray job
    gone: bool = True  # or told to end, and still running


class Queue(Protocol):
    """What is asked of what is on its way."""

    @property
    def title(self) -> str: ...  # as sentences name it

    def status(self, sweep: str, store: Store) -> Queued: ...

    def cancel(
        self, plan: Plan, store: Store, only: frozenset[str] | None, note: Callable[[str], None]
    ) -> Ended: ...  # only: of these tasks alone

    def logs(self, sweep: str, store: Store) -> str | None: ...  # None: they are files, a task or an array task each


class SiteKind(Queue, Protocol):
    @property
    def counts_hours(self) -> bool: ...  # whether --max-gpu-hours has something to count

    @property
    def far(self) -> bool: ...  # whether what stops it may pass, as on a cluster

    def open(
        self, plan: Plan, store: Store, campaign: Campaign, note: Callable[[str], None], remote: Remote
    ) -> Callable[[], Backend]:
        """What makes the backend, once there is something to do. It raises BadInput or EnvironmentProblem for a site
        that does not fit the cluster, before anything is queued. remote: for the job that goes on after a wave.
        """

    def submit(self, plan: Plan, store: Store, campaign: Campaign, observer: Observer, remote: Remote) -> Submitted: ...

    def forecast(self, plan: Plan, store: Store) -> Forecast | None: ...  # None: it cannot be told

    def doctor(self, store: str, tracking: str, plan: Plan | None) -> Iterable[Row]: ...
