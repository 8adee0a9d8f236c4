"""What a command that is interrupted leaves in a cluster's queue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.commands.app import err
from orchestrator.errors import NagbenchError
from orchestrator.report.formatting import plural

if TYPE_CHECKING:
    from orchestrator.backends.site_kind import Queue
    from orchestrator.plan.model import Plan
    from orchestrator.store.store import Store


@contextlib.contextmanager
def told_what_stays(queue: Queue | None, plan: Plan, store: Store) -> Iterator[None]:
    """If Ctrl-C ends the body: say how many jobs stay in the queue, and how to cancel them."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(NagbenchError):
            if queue and (words := what_stays(queue, plan, store)):
                err.print(words, markup=False, soft_wrap=True)
        raise


def what_stays(queue: Queue, plan: Plan, store: Store) -> str:
    queued = queue.status(plan.sweep.name, store)
    tasks = (counts for counts in queued.array_tasks.values())
    count = sum(number for counts in tasks for state, number in counts.items() if state != "failed")
    to_end = f"To cancel: nagbench cancel {plan.sweep.argument}"
    if queued.unknown:
        return f"{queue.title} cannot tell what is queued: {queued.unknown}. {to_end}"
    if not count:
        return ""
    return f"{queue.title} still has {plural(count, 'array task')} of this sweep, which will go on. {to_end}"
