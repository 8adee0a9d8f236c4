"""What all commands share: the app, its consoles, and how a sweep is read, reported and tracked."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.commands import interrupts, outermost
from orchestrator.display import address, visible
from orchestrator.errors import BadInput, EnvironmentProblem, NagbenchError, unknown

if TYPE_CHECKING:
    from orchestrator.plan.model import Plan, StoredPlan
    from orchestrator.report.results import Results
    from orchestrator.store.store import Store

REPORTS = "results/reports"


class Screen(Console):
    """A console that escapes control sequences in names and texts that others wrote."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    @property
    def is_terminal(self) -> bool:
        """FORCE_COLOR, which Jupyter sets, is for colours: bars and spinners on stderr are for terminals only."""
        return super().is_terminal and (not self.stderr or self.file.isatty())

    def on_broken_pipe(self) -> None:
        raise  # streams.Gone, which rich has just caught


app = typer.Typer(
    help="Does this guidance method beat the others, where, by how much, at what price?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Screen(highlight=False, soft_wrap=False)
err = Screen(stderr=True, highlight=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"nagbench {version('nagbench')}\n")
        sys.stdout.flush()
        raise typer.Exit


@app.callback()
def nagbench(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options before the name of a command."""


def command(body: Callable[..., int | None]) -> Callable[..., None]:
    """Register a function as a command: an error becomes one message, the result the exit code."""

    @app.command()
    @functools.wraps(body)
    def wrapped(*args: Any, **options: Any) -> None:
        try:
            with interrupts.working():
                code = body(*args, **options)
                sys.stdout.flush()
        except NagbenchError as error:
            code = outermost.tell(error, bool(options.get("as_json")))
        raise typer.Exit(code or 0)

    return wrapped


def read_plan(
    sweep_path: str,
    smoke: bool = False,
    arms: list[str] | None = None,
    cell: str | None = None,
    count: int | None = None,
    hashes: bool = True,
    overrides: list[str] | None = None,
) -> Plan:
    from orchestrator.plan.make import only_cell, plan
    from orchestrator.spec.reader import read_sweep

    sweep = read_sweep(sweep_path, smoke=smoke, overrides=overrides or ())
    known = [arm.name for arm in sweep.arms]
    for name in arms or []:
        if name not in known:
            raise BadInput(f"--arm: {unknown('arm', name, known)}")
    if cell is not None:
        sweep = only_cell(sweep, cell, count)
    return plan(sweep, frozenset(arms) if arms else None, hashes)


def stored_plan(
    sweep: str,
    store: Store,
    smoke: bool = False,
    arms: list[str] | None = None,
    *,
    hashes: bool = True,
    overrides: list[str] | None = None,
) -> StoredPlan:
    """The plan of a sweep: by name from the store, or by path from its file."""
    from orchestrator.notebook import is_sweep_name
    from orchestrator.plan.model import only_arms
    from orchestrator.plan.stored_plan import plan_of_sweep
    from orchestrator.spec.overrides import check_named

    if not is_sweep_name(sweep):
        return read_plan(sweep, smoke, arms, hashes=hashes, overrides=overrides)
    check_named(sweep, overrides or ())
    plan = plan_of_sweep(store, f"{sweep}-smoke" if smoke else sweep)
    return only_arms(plan, arms) if arms else plan


def open_store(url: str) -> Store:
    from orchestrator.store.store import Store

    store = Store(url, lambda text: err.print(text, style="yellow", markup=False))
    store.check_format()
    return store


def warn_of_other_file(plan: StoredPlan, store: Store) -> None:
    """Say so if another file has the same sweep name on this store: they share jobs, report and MLflow experiment."""
    from orchestrator.plan.difference import other_file

    if file := other_file(plan, store):
        words = f"sweep {plan.sweep.name} was last run here from another file, {file}. Both share its jobs, report and"
        words += " MLflow experiment; if they are two sweeps, give each its own name, or use another --store."
        err.print(words, style="yellow", markup=False, soft_wrap=True)


def say(sentence: str, style: str = "") -> None:
    """Print a sentence: broken between words in a terminal, one line elsewhere."""
    out.print(sentence, style=style, markup=False, soft_wrap=not out.is_terminal)


def tell_overrides(plan: StoredPlan, store: Store) -> None:
    """Say which values the command line gave in place of the file's; also if it gave others at the last run."""
    from orchestrator.plan.difference import last_overrides
    from orchestrator.spec.overrides import options

    mine, last = plan.sweep.overrides, last_overrides(plan, store)
    if mine:
        say(f"With {options(mine)}", "yellow")
    if last is not None and last != mine and plan.sweep.argument != plan.sweep.name:
        was = f"with {options(last)}" if last else "without --set"
        words = f"It was last run here {was}; this shows the sweep {'with the above' if mine else 'as its file is'}."
        fix = f"For that run: nagbench status {plan.sweep.name}, or give the same --set."
        say(f"{words} {fix}", "yellow")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def compare_and_report(plan: StoredPlan, opened: Store, store: str, tracking: str) -> int:
    """Print the comparison, write the report and MLflow. Returns the exit code: 1 if a cell is incomplete."""
    from orchestrator.plan.model import Plan
    from orchestrator.report.comparisons import compare
    from orchestrator.report.results import collect
    from orchestrator.report.terminal import comparison
    from orchestrator.report.write import write_report
    from orchestrator.tracking.sync import NONE

    results = collect(plan, opened)
    comparisons = compare(results, opened)
    for piece in comparison(results, comparisons):
        out.print(piece, soft_wrap=bool(getattr(piece, "no_wrap", False)))
    command = f"nagbench {'run' if isinstance(plan, Plan) else 'report'} {plan.sweep.argument}"
    tell_overrides(plan, opened)
    with err.status("Writing the report..."):
        page = write_report(results, comparisons, opened, report_folder(plan, opened), command)
    tracked = "" if tracking == NONE else f"   MLflow: {address(tracking)} (nagbench ui {plan.sweep.argument})"
    out.print(f"Report: {page}   Results: {address(store)}{tracked}", markup=False, soft_wrap=True)
    track(results, opened, tracking, page.parent)
    return 0 if results.complete else 1


def report_folder(plan: StoredPlan, store: Store) -> Path:
    """The folder of a sweep's report: STORE-reports/NAME beside a store in a folder. For the default one, for one on a
    server, and beside one where the user may not write it is results/reports/NAME.
    """
    from orchestrator.notebook import DEFAULT_STORE

    beside = Path(f"{store.root}-reports")
    usual = not store.local or Path(store.root) == Path(DEFAULT_STORE).absolute()
    if usual or not os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return Path(REPORTS) / plan.sweep.name
    here = Path.cwd()
    return (beside.relative_to(here) if beside.is_relative_to(here) else beside) / plan.sweep.name


def report_pages(plan: StoredPlan, store: Store) -> Path | None:
    """The folder of the last report, if there is one."""
    folder = report_folder(plan, store)
    return folder if folder.is_dir() else None


def track(results: Results, opened: Store, tracking: str, pages: Path | None) -> None:
    """Write to MLflow. As it is only a view of the records, a failure is a warning."""
    from orchestrator.tracking.sync import sync

    try:
        with err.status("Writing to MLflow..."):
            sync(results, tracking, opened, pages)
    except EnvironmentProblem as error:
        err.print(f"Not written to MLflow: {error}", style="yellow", markup=False, soft_wrap=True)
