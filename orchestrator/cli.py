"""The commands. The only file that prints, and the only one that knows exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from orchestrator.errors import BadInput, EnvironmentProblem, NagbenchError, unknown

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.report.results import CellResult, Results

DEFAULT_STORE = "results/store"
DEFAULT_TRACKING = "sqlite:///results/mlflow.db"
INTERRUPTED = 130

app = typer.Typer(
    help="Does this guidance method beat the others, where, by how much, at what price?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
StoreOption = Annotated[
    str, typer.Option(help="Where results live: a folder or an fsspec URL.", envvar="NAGBENCH_STORE")
]
TrackingOption = Annotated[
    str, typer.Option(help="MLflow tracking URI; 'none' for no tracking.", envvar="NAGBENCH_TRACKING")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm; may be repeated.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="The first and last value of each axis, tiny networks, few samples.")
]


def command(body: Callable[..., int | None]) -> Callable[..., None]:
    """A function as a command: errors become one message, its result the exit code."""

    @app.command()
    @functools.wraps(body)
    def wrapped(*args: Any, **options: Any) -> None:
        try:
            code = body(*args, **options)
        except NagbenchError as error:
            if options.get("as_json"):
                print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            err.print(str(error), style="red", markup=False)
            code = error.exit_code
        except KeyboardInterrupt:
            err.print("Interrupted. What is done stays; the same command goes on from there.")
            code = INTERRUPTED
        sys.stdout.flush()
        raise typer.Exit(code or 0)

    return wrapped


def _plan(
    sweep_path: str,
    smoke: bool = False,
    arms: list[str] | None = None,
    cell: str | None = None,
    count: int | None = None,
) -> Plan:
    from orchestrator.plan import only_cell, plan
    from orchestrator.spec import read_sweep

    sweep = read_sweep(sweep_path, smoke=smoke)
    known = [arm.name for arm in sweep.arms]
    for name in arms or []:
        if name not in known:
            raise BadInput(f"--arm: {unknown('arm', name, known)}")
    if cell is not None:
        sweep = only_cell(sweep, cell, count)
    return plan(sweep, frozenset(arms) if arms else None)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


@command
def check(sweep: SweepArgument, smoke: SmokeOption = False, as_json: JsonOption = False) -> None:
    """Say whether a sweep is right, without doing anything."""
    found = _plan(sweep, smoke)
    if as_json:
        _print_json({"sweep": found.sweep.name, "arms": len(found.sweep.arms), "cells": len(found.cells)})
    else:
        out.print(f"{sweep}: good. {_shape(found)}", markup=False, soft_wrap=True)


def _shape(plan: Plan) -> str:
    trainings = sum(task.kind == "train" for task in plan.tasks.values())
    return (
        f"{_count(len(plan.cells), 'cell')} in {_count(len(plan.sweep.arms), 'arm')}, {_count(trainings, 'training')}."
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@command
def plan(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the cells, the tasks by kind, and what is done already."""
    from orchestrator.plan import Done
    from orchestrator.report.progress import cells_table, counts, counts_table

    found = _plan(sweep, smoke, arm)
    tasks = counts(found, Done(_open(store)))
    if as_json:
        cells = [{"arm": c.cell.arm, "digest": c.digest, "params": dict(c.cell.params)} for c in found.cells]
        _print_json({"sweep": found.sweep.name, "cells": cells, "tasks": tasks})
        return
    out.print(cells_table(found))
    out.print(counts_table(tasks))
    out.print(_shape(found))


def _open(url: str) -> Any:
    from orchestrator.store import Store

    store = Store(url)
    store.check_format()
    return store


@command
def status(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a sweep is. Writes nothing, waits for nothing."""
    from orchestrator.plan import Done
    from orchestrator.report.progress import counts, counts_table
    from orchestrator.report.results import collect

    found, opened = _plan(sweep, smoke), _open(store)
    done = Done(opened)
    results, tasks = collect(found, opened, done), counts(found, done)
    failed = [cell for cell in results.cells if cell.reason is not None]
    complete = sum(cell.complete for cell in results.cells)
    left = len(results.cells) - complete - len(failed)
    if as_json:
        cells = {"total": len(results.cells), "done": complete, "failed": len(failed), "missing": left}
        _print_json({"sweep": found.sweep.name, "store": store, "tracking": tracking, "cells": cells, "tasks": tasks})
        return
    out.print(counts_table(tasks))
    out.print(f"Cells: {complete} of {len(results.cells)} done, {len(failed)} failed, {left} to do.")
    for cell in failed:
        _print_failed(cell)


def _print_failed(cell: CellResult) -> None:
    text = f"failed: {cell.arm} {cell.digest[:12]}: {cell.reason} (log: {cell.log})"
    out.print(text, style="red", markup=False, soft_wrap=True)


@command
def run(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    cell: Annotated[str | None, typer.Option(help="Only this cell, by the first letters of its digest.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: this many samples.")] = None,
    here: Annotated[bool, typer.Option("--here", help="In this process, with full tracebacks: for debugging.")] = False,
    micro_batch: Annotated[int, typer.Option(min=1, help="Samples in the network at once.")] = 256,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="Time between checkpoints of a training.")] = 30.0,
) -> int:
    """Do what is missing of a sweep, then compare. To resume, extend or repair, run the same command again."""
    from orchestrator import engine
    from orchestrator.backends import Backend
    from orchestrator.backends.here import Here
    from orchestrator.backends.local import Local
    from orchestrator.report.progress import watch
    from orchestrator.tasks import Options

    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise BadInput(f"--device: {unknown('device', device, ['auto', 'cpu', 'cuda', 'cuda:0', 'mps'])}")
    if count is not None and cell is None:
        raise BadInput("--count goes with --cell; for a whole sweep, set sample.count in its file")
    found, opened = _plan(sweep, smoke, arm, cell, count), _open(store)
    number = 1 if here else workers or len(os.sched_getaffinity(0))
    options = Options(device=device, micro_batch=micro_batch, checkpoint_s=checkpoint_seconds)

    def backend() -> Backend:
        return Here(opened, options, raises=True) if here else Local(opened, number, options)

    with watch(err, found, opened) as observer:
        engine.run(found, opened, backend, number, observer)
    return _report(found, opened, store, tracking)


@command
def report(
    sweep: SweepArgument,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> int:
    """Compare what is done, with what is missing and what failed."""
    from orchestrator.report.document import document
    from orchestrator.report.results import collect

    found, opened = _plan(sweep, smoke, arm), _open(store)
    if not as_json:
        return _report(found, opened, store, tracking)
    results = collect(found, opened)
    _track(results, tracking)
    _print_json(document(results, opened))
    return 0 if all(cell.complete for cell in results.cells) else 1


def _report(plan: Plan, opened: Any, store: str, tracking: str) -> int:
    """Print the comparison, bring MLflow up to date; exit code 1 if a cell is not there."""
    from orchestrator.report.comparisons import compare
    from orchestrator.report.results import collect
    from orchestrator.report.tables import comparison_tables, footnotes, sentences

    results = collect(plan, opened)
    complete = [cell for cell in results.cells if cell.complete]
    if complete and plan.sweep.score:
        comparisons = compare(results, opened)
        out.print(comparison_tables(results, comparisons))
        for line in sentences(results, comparisons):
            out.print(line, markup=False)
        for line in footnotes(results, comparisons):
            out.print(line, style="dim", markup=False)
    for cell in results.cells:
        if cell.reason is not None:
            _print_failed(cell)
    left = len(results.cells) - len(complete)
    if left and plan.sweep.score:
        out.print(f"{left} of {_count(len(results.cells), 'cell')} not done.", style="yellow")
    out.print(
        f"Results: {store}" + ("" if tracking == "none" else f"   MLflow: {tracking}"), markup=False, soft_wrap=True
    )
    _track(results, tracking)
    return 1 if (left and plan.sweep.score) or any(cell.reason for cell in results.cells) else 0


def _track(results: Results, tracking: str) -> None:
    """MLflow is a view: where it cannot be written, say so and go on."""
    if tracking == "none":
        return
    from orchestrator.tracking import sync

    try:
        with err.status("Writing to MLflow..."):
            sync(results, tracking)
    except EnvironmentProblem as error:
        err.print(f"Not tracked: {error}", style="yellow", markup=False)


@command
def logs(
    sweep: SweepArgument,
    cell: Annotated[str | None, typer.Argument(help="Only what this cell needs: the start of its digest.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
) -> None:
    """Show the logs of local tasks: the last line of each, or all of those of a cell."""
    from orchestrator import logs as written
    from orchestrator.plan import find_cell

    found, opened = _plan(sweep, smoke), _open(store)
    chosen = find_cell(found, cell) if cell else None
    if follow:
        for task, line in written.follow(found, opened, chosen):
            out.print(f"{task.kind} {task.digest[:12]}  {line}", markup=False, soft_wrap=True)
    known = written.logs(found, opened, chosen)
    for log in known:
        if chosen:
            out.print(
                f"== {log.task.kind} {log.task.digest[:12]}  {log.path}", style="bold", markup=False, soft_wrap=True
            )
            out.print(log.path.read_text(errors="replace").rstrip(), markup=False, soft_wrap=True)
        else:
            out.print(f"{log.task.kind:<9} {log.task.digest[:12]}  {log.last}", markup=False, soft_wrap=True)
    if not known:
        out.print(f"No logs of this sweep in {opened.logs}.", markup=False, soft_wrap=True)


def main() -> None:
    """The `nagbench` command."""
    try:
        app()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
