"""`nagbench score`: metrics of images that were made elsewhere."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich import box
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.commands.app import command, err, open_store, out, print_json
from orchestrator.commands.du import text
from orchestrator.commands.options import DeviceOption, JsonOption, check_device, given
from orchestrator.display import address
from orchestrator.errors import BadInput, unknown
from orchestrator.spec.evaluators import EVALUATORS, Evaluator

if TYPE_CHECKING:
    from orchestrator.plan.model import Plan
    from orchestrator.plan.score_images import Found
    from orchestrator.store.store import Store
    from orchestrator.tasks.context import Options

ALL = "all"  # evaluators
PREFIX = "nagbench-score-"  # of the temporary store
FOR_DIFFERENCES = (
    "For differences between equal numbers of images: corrected to first order for the bias in N. By itself it is too "
    "low unless N is many times the dimension; to estimate the limit, use fid_infinity."
)


class Scored(NamedTuple):
    """An evaluator's values, and what to know about them: why some are missing, or all."""

    results: list[Found]
    notes: tuple[str, ...]


@contextlib.contextmanager
def download_progress() -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        yield shown, shown.add_task("fetching", total=None)


@command
def score(
    samples: Annotated[str, typer.Argument(metavar="FOLDER|NPZ", help="The images, all of one size.")],
    reference: Annotated[
        str, typer.Option(help="Images or statistics to compare with: a folder, an .npz file or a URL.")
    ],
    features: Annotated[
        list[str] | None, typer.Option(help="An extractor, as NAME or '{name: ..., ...}'; can be repeated.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="A metric, written in the same way; by default all that fit.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help=f"Score as these evaluators do: {', '.join(EVALUATORS)} or all, side by side.", callback=given
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Only the first COUNT images.")] = None,
    store: Annotated[
        str | None, typer.Option(help="A store that keeps the features; by default nothing is kept.", callback=given)
    ] = None,
    device: DeviceOption = "auto",
    micro_batch: Annotated[int, typer.Option(min=1, help="Images per network call.")] = 64,
    as_json: JsonOption = False,
) -> int:
    """Score images that were made elsewhere, as a sweep scores its own."""
    from orchestrator.plan import score_images as scoring
    from orchestrator.tasks.context import Options

    check_device(device)
    options = Options(device=device, micro_batch=micro_batch)
    if protocol is not None:
        if metrics:
            raise BadInput("--metrics: --protocol says which metrics are computed; leave out one of them.")
        scored = _by_protocols(_evaluators(protocol), (samples, reference, features or [], count), store, options)
        return _print_protocols(samples, reference, scored, as_json)
    plan = scoring.planned(samples, reference, features or [], metrics or [], count)
    with _opened(store) as opened:
        if failed := _run(plan, opened, options):
            for digest, reason in failed.items():
                err.print(f"{plan.tasks[digest].kind}: {reason}", style="red", markup=False)
            return 1
        results = list(scoring.results(plan, opened))
    if as_json:
        print_json(
            {"samples": samples, "reference": address(reference), "metrics": {f.metric: f.as_json() for f in results}}
        )
        return 0
    table = _table("metric", "value", "95 %", "for differences")
    for one in results:
        value, low, high, extrapolated = (one.score[key] for key in ("value", "low", "high", "extrapolated"))
        interval = f"[{low:.4g}, {high:.4g}]" if low is not None else ""
        table.add_row(one.metric, text(value), interval, text(extrapolated))
    out.print(table)
    for line in dict.fromkeys(scoring.stamp_words(one) for one in results):
        out.print(Text(line, style="dim"), soft_wrap=True)
    if any(one.score["extrapolated"] is not None for one in results):
        out.print(Text(FOR_DIFFERENCES, style="dim"), soft_wrap=True)
    for reason in dict.fromkeys(f"{one.metric}: {one.score['reason']}" for one in results if one.score["reason"]):
        out.print(Text(reason, style="dim"), soft_wrap=True)
    return 0


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "metric" else "right")
    return table


@contextlib.contextmanager
def _opened(store: str | None) -> Iterator[Store]:
    """The store that the user names, or one that is removed afterwards."""
    place = contextlib.nullcontext(store) if store is not None else tempfile.TemporaryDirectory(prefix=PREFIX)
    with place as folder:
        yield open_store(folder)


def _run(plan: Plan, store: Store, options: Options) -> dict[str, str]:
    """Run a plan's tasks; those that failed, and why."""
    from orchestrator.backends.local import Local
    from orchestrator.execution import engine
    from orchestrator.report.live import watch

    workers = min(2, len(os.sched_getaffinity(0)))
    with watch(err, plan, store) as observer:
        return dict(engine.run(plan, store, lambda: Local(store, workers, options), observer))


def _evaluators(name: str) -> list[Evaluator]:
    if name != ALL and name not in EVALUATORS:
        raise BadInput(f"--protocol: {unknown('protocol', name, [*EVALUATORS, ALL])}")
    return [each for each in EVALUATORS.values() if name in (ALL, each.name)]


def _by_protocols(
    evaluators: list[Evaluator], given: tuple[str, str, list[str], int | None], store: str | None, options: Options
) -> dict[str, Scored]:
    """The values of each evaluator. One that cannot score says why, and the others go on."""
    from orchestrator.plan import score_images as scoring

    scored = {}
    with _opened(store) as opened:
        for evaluator in evaluators:
            try:
                plan, notes = scoring.planned_by(evaluator, *given)
            except BadInput as error:
                if len(evaluators) == 1:
                    raise
                scored[evaluator.name] = Scored([], (str(error),))
                continue
            failed = _run(plan, opened, options)
            reasons = tuple(f"{plan.tasks[digest].kind}: {reason}" for digest, reason in failed.items())
            results = [] if failed else list(scoring.results(plan, opened))
            scored[evaluator.name] = Scored(results, (*notes, *reasons))
    return scored


def _print_protocols(samples: str, reference: str, scored: dict[str, Scored], as_json: bool) -> int:
    from orchestrator.plan import score_images as scoring

    values = {name: {one.metric: one for one in each.results} for name, each in scored.items()}
    if as_json:
        found = {
            name: {"metrics": {key: one.as_json() for key, one in values[name].items()}, "notes": [*each.notes]}
            for name, each in scored.items()
        }
        print_json({"samples": samples, "reference": address(reference), "protocols": found})
    else:
        table = _table("metric", *scored)
        for metric in dict.fromkeys(metric for known in values.values() for metric in known):
            cells = (text(known[metric].score["value"]) if metric in known else "" for known in values.values())
            table.add_row(metric, *cells)
        if table.rows:
            out.print(table)
        for name, each in scored.items():
            measured = dict.fromkeys(scoring.stamp_words(one).partition(": ")[2] for one in each.results)
            of_all = [line for line in measured if not any(one.startswith(f"{line};") for one in measured)]
            for line in (*of_all, *each.notes):
                out.print(Text(f"{name}: {line}", style="dim"), soft_wrap=True)
    return 0 if any(values.values()) else 1
