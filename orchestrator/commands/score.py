"""`nagbench score`: metrics of images that were made elsewhere."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.commands.app import command, err, open_store, out, print_json
from orchestrator.commands.du import text
from orchestrator.commands.options import DeviceOption, JsonOption, check_device, given
from orchestrator.display import address

PREFIX = "nagbench-score-"  # of the temporary store
FOR_DIFFERENCES = (
    "For differences between equal numbers of images: corrected to first order for the bias in N. By itself it is too "
    "low unless N is many times the dimension; to estimate the limit, use fid_infinity."
)


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
        list[str] | None, typer.Option(help="A metric, written likewise; by default all that fit.")
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
    from orchestrator.backends.local import Local
    from orchestrator.execution import engine
    from orchestrator.plan import score_images as scoring
    from orchestrator.report.live import watch
    from orchestrator.tasks.context import Options

    check_device(device)
    plan = scoring.planned(samples, reference, features or [], metrics or [], count)
    with contextlib.ExitStack() as stack:
        place = contextlib.nullcontext(store) if store is not None else tempfile.TemporaryDirectory(prefix=PREFIX)
        folder = stack.enter_context(place)
        opened = open_store(folder)
        options = Options(device=device, micro_batch=micro_batch)
        workers = min(2, len(os.sched_getaffinity(0)))
        with watch(err, plan, opened) as observer:
            failed = engine.run(plan, opened, lambda: Local(opened, workers, options), observer)
        if failed:
            for digest, reason in failed.items():
                err.print(f"{plan.tasks[digest].kind}: {reason}", style="red", markup=False)
            return 1
        results = list(scoring.results(plan, opened))
    if as_json:
        print_json(
            {"samples": samples, "reference": address(reference), "metrics": {f.metric: f.as_json() for f in results}}
        )
        return 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("metric", "value", "95 %", "for differences"):
        table.add_column(column, justify="left" if column == "metric" else "right")
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
