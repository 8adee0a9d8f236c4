"""`nagbench plan`: cells, tasks, disk space and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.app import command, open_store, out, print_json, read_plan, say, tell_overrides
from orchestrator.commands.options import (
    ArmOption,
    JsonOption,
    SetOption,
    SiteOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
)
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.report.formatting import plural

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.backends.slurm.forecast import Forecast
    from orchestrator.plan.model import StoredPlan
    from orchestrator.plan.progress import Done
    from orchestrator.store.store import Store


def forecast_table(expected: Forecast) -> tuple[Table, str, dict[str, Any]]:
    """What `plan --site` shows: arrays by stage, a line with the total time, and the same as JSON."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "arrays", "array tasks", "at once", "longest", "GPU hours"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    rows = []
    for kind in dict.fromkeys(array.kind for array in expected.arrays):
        of = [array for array in expected.arrays if array.kind == kind]
        gpu_s = sum(array.gpu_seconds for array in of)
        array_tasks = sum(len(array.tasks) for array in of)
        longest = max(array.seconds / array.lanes / len(array.tasks) for array in of)
        at_once = sum(min(array.throttle, len(array.tasks)) for array in of)
        rows.append({"stage": kind, "arrays": len(of), "elements": array_tasks, "gpu_hours": round(gpu_s / 3600, 3)})
        table.add_row(
            kind, f"{len(of):,}", f"{array_tasks:,}", f"{at_once:,}", f"{longest / 60:.1f} min", f"{gpu_s / 3600:,.2f}"
        )
    words = (
        f"{plural(len(expected.arrays), 'array')}, {plural(expected.array_tasks, 'array task')}, "
        f"{expected.gpu_hours:,.2f} GPU hours, {expected.makespan_s / 3600:,.2f} hours if nobody else is in the queue."
    )
    if expected.measured_on:
        words += f" Speeds were measured on {'; '.join(expected.measured_on)}."
    if expected.guessed:
        words += f" The time of {', '.join(expected.guessed)} is a guess: no such task was measured yet."
        words += f" How fast networks are is taken from {expected.guessed_by}."
    if expected.arrays and expected.faster:
        words += f" {expected.faster}"
    as_json = {
        "stages": rows,
        "gpu_hours": round(expected.gpu_hours, 3),
        "makespan_seconds": round(expected.makespan_s),
        "guessed": list(expected.guessed),
        "guessed_by": expected.guessed_by,
        "measured_on": list(expected.measured_on),
        "fits": list(expected.fits),
        "faster": expected.faster,
    }
    return table, words, as_json


def show_difference(planned: StoredPlan, opened: Store, done: Done, as_json: bool) -> None:
    """Print what an edit adds, keeps and leaves, against the plan with which the sweep was last run."""
    from orchestrator.plan.difference import difference, last_plan, other_file

    old = last_plan(opened, planned.sweep.name)
    if old is None:
        raise BadInput(f"--diff: sweep {planned.sweep.name} was not run or submitted on store {opened.url} yet")
    found = difference(old, planned, done)
    parts = {"added": found.added, "kept": found.kept, "left": found.left}
    if as_json:
        told = {
            name: {"cells": part.cells, "tasks": len(part.tasks), "done": part.done} for name, part in parts.items()
        }
        print_json({"sweep": planned.sweep.name, "other_file": other_file(planned, opened) or None, **told})
        return
    if file := other_file(planned, opened):
        out.print(f"It was last run from another file of this name: {file}", markup=False, soft_wrap=True)
    for name, part in parts.items():
        arms = ", ".join(f"{arm} {count:,}" for arm, count in part.cells.items())
        cells = f"{plural(sum(part.cells.values()), 'cell')}{f' ({arms})' if arms else ''}"
        tasks = f"{plural(len(part.tasks), 'task')}, {part.done:,} of them done"
        out.print(f"{name:<5}  {cells}, {tasks}", markup=False, soft_wrap=True)
    if found.left.tasks:
        words = f"What is left stays. nagbench cancel {planned.sweep.argument} --obsolete ends what is queued of it; "
        out.print(f"{words}after the next run, nagbench gc removes its files.", markup=False, soft_wrap=True)


@command
def plan(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="Only show what changed since the last run: cells that are new, kept or gone."),
    ] = False,
) -> None:
    """Show cells, tasks and disk space, what is done, and with --site the time that the rest will take."""
    from orchestrator.backends.kinds import at
    from orchestrator.backends.site import read_site
    from orchestrator.plan.availability import absent
    from orchestrator.plan.choices import Choices
    from orchestrator.plan.progress import Done
    from orchestrator.report.choices import choice_json
    from orchestrator.report.foresight import forecast
    from orchestrator.report.progress import cells_table, counts, counts_table, shape
    from orchestrator.report.races import choices_table, unequal
    from orchestrator.retention.policy import cells_to_resample
    from orchestrator.retention.usage import planned_space

    place = read_site(site) if site else None
    planned, opened = read_plan(sweep, smoke, arm, overrides=overrides), open_store(store)
    done = Done(opened)
    if diff:
        show_difference(planned, opened, done, as_json)
        return
    races = Choices(planned, opened)
    now, choices = races.current(done), races.told(done)
    tasks, space, repeated = counts(now, done), planned_space(races.expected(done)), cells_to_resample(now, done)
    expected = at(place).forecast(planned, opened) if place else None
    arrays, words, site_json = forecast_table(expected) if expected else (None, "", {})
    if as_json:
        cells = [{"arm": c.arm, "digest": c.digest, "params": dict(c.params)} for c in now.cells]
        disk = space.as_json()
        known = {"sweep": planned.sweep.name, "cells": cells, "tasks": tasks, "disk": disk, "absent": absent(planned)}
        known |= {"overrides": list(planned.sweep.overrides)}
        known |= {"choices": [choice_json(choice) for choice in choices]} if choices else {}
        print_json({**known, "site": site_json or None})
        return
    tell_overrides(planned, opened)
    out.print(cells_table(now))
    if choices:
        out.print(choices_table(choices, spent=False))
        if note := unequal(choices):
            say(note)
    out.print(counts_table(tasks))
    say(shape(planned))
    say(space.words(planned.sweep.keep))
    for line in absent(planned):
        out.print(f"not on this machine: {line}", markup=False, soft_wrap=True)
    for line in forecast(planned, opened, done):
        say(line)
    if repeated:
        lost = "have scores, but their samples or features were removed: they are sampled again for what is missing"
        say(f"{repeated:,} cells {lost} (keep: {planned.sweep.keep}).")
    if arrays is not None and expected is not None:
        out.print(arrays)
        say(words)
        if expected.fits:
            out.print("By what finished tasks have used, these lines of the site file fit:")
        for line in expected.fits:
            out.print(line, markup=False, soft_wrap=True)
