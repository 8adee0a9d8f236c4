"""What an edit of a sweep changes: which cells and tasks it adds, keeps and leaves behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.errors import BadInput, CorruptFile
from orchestrator.plan.model import StoredCell, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.plan.stored_plan import plan_of_sweep
from orchestrator.store.store import Store
from orchestrator.tasks import stored


@dataclass(frozen=True)
class Part:
    """Cells of a plan by arm, and tasks."""

    cells: dict[str, int]
    tasks: frozenset[str]
    done: int  # of the tasks


@dataclass(frozen=True)
class Difference:
    added: Part
    kept: Part
    left: Part


def difference(old: StoredPlan, new: StoredPlan, done: Done) -> Difference:
    """Cells are told apart by what they compute, so a renamed arm changes nothing."""
    before = {cell.digest for cell in old.every_cell}
    after = {cell.digest for cell in new.every_cell}

    def part(plan: StoredPlan, cells: set[str], tasks: Iterable[str]) -> Part:
        chosen = frozenset(tasks)
        complete = sum(done.complete(plan, digest) for digest in chosen)
        return Part(_by_arm(cell for cell in plan.every_cell if cell.digest in cells), chosen, complete)

    return Difference(
        added=part(new, after - before, new.tasks.keys() - old.tasks.keys()),
        kept=part(new, after & before, new.tasks.keys() & old.tasks.keys()),
        left=part(old, before - after, old.tasks.keys() - new.tasks.keys()),
    )


def _by_arm(cells: Iterable[StoredCell]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.arm] = counts.get(cell.arm, 0) + 1
    return counts


def last_plan(store: Store, sweep: str) -> StoredPlan | None:
    """The plan with which a sweep of this name was last run or submitted on this store."""
    if not store.list(f"sweeps/{sweep}"):
        return None
    with contextlib.suppress(BadInput, CorruptFile):
        return plan_of_sweep(store, sweep)
    return None


def obsolete(plan: StoredPlan, store: Store) -> frozenset[str]:
    """The tasks that this sweep had when it was run or submitted before, and has no more."""
    tasks: set[str] = set()
    for entry in store.list(f"sweeps/{plan.sweep.name}"):
        with contextlib.suppress(CorruptFile):
            name = store.read_record(f"sweeps/{plan.sweep.name}/{entry}", repair=False)["plan"]
            tasks.update(stored.read(store, name).tasks)
    return frozenset(tasks - plan.tasks.keys())


def last_overrides(plan: StoredPlan, store: Store) -> tuple[str, ...] | None:
    """What the command line gave in place of values of the file when the sweep was last run on this store; None if it
    was not run yet.
    """
    entries = store.list(f"sweeps/{plan.sweep.name}")
    with contextlib.suppress(CorruptFile):
        if entries:
            record = store.read_record(f"sweeps/{plan.sweep.name}/{entries[-1]}", repair=False)
            return tuple(map(str, record.get("overrides", ())))
    return None


def other_file(plan: StoredPlan, store: Store) -> str:
    """Another sweep file of the same name with which this store was last used, if it is still there; or ""."""
    entries = store.list(f"sweeps/{plan.sweep.name}")
    if not entries or not os.path.isfile(plan.sweep.path):
        return ""
    with contextlib.suppress(CorruptFile):
        file = str(store.read_record(f"sweeps/{plan.sweep.name}/{entries[-1]}", repair=False).get("file", ""))
        if file and os.path.isfile(file) and not os.path.samefile(file, plan.sweep.path):
            return file
    return ""
