"""The commands for what lies on disk: what a store holds and gives away, weights that are fetched, images that others
made.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.app import command, err, open_store, out, print_json, read_plan, report_pages
from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.options import (
    DeviceOption,
    JsonOption,
    SmokeOption,
    StoreOption,
    SweepArgument,
    check_device,
    given,
)

PREFIX = "nagbench-score-"  # of the folder of a score that is not kept
FOR_DIFFERENCES = (
    "For differences between equal numbers of images: without the bias in N, to first order. By itself it is too low "
    "where N is not many times the dimension, and no estimate of the limit; fid_infinity is one."
)
COLUMNS = {  # of `du`: the kinds of task whose files it adds up
    "samples": ("sample",),
    "features": ("extract",),
    "networks": ("train",),
    "references": ("reference",),
    "scores": ("score", "measure"),
}


@command
def du(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP.yaml]", help="Only this sweep, by arm.")] = None,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the store has, by sweep and kind; of one sweep, by arm and kind."""
    from orchestrator.disk import Space, usage

    found = usage(open_store(store), read_plan(sweep, smoke) if sweep else None)
    what = "arm" if sweep else "sweep"
    if as_json:
        print_json({"store": address(store), **found.as_json(what)})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(what)
    for column in (*COLUMNS, "all", "files"):
        table.add_column(column, justify="right", no_wrap=True)
    names: dict[str, dict[str, Space]] = defaultdict(dict)
    for (name, kind), space in found.rows.items():
        names[name][kind] = space
    for name, kinds in names.items():
        whole = sum(kinds.values(), Space())
        cells = [size(sum(kinds[k].bytes for k in some if k in kinds)) for some in COLUMNS.values()]
        table.add_row(name, *cells, size(whole.bytes), f"{whole.files:,}")
    out.print(table)
    if found.shared.files:
        out.print(f"Used by several of them, and counted for each: {found.shared}.")
    out.print(f"Everything else (plans, logs, other sweeps, what was set aside): {found.others}.")
    out.print(f"The store: {found.total}.  nagbench gc says what no sweep refers to.")


@command
def gc(
    store: StoreOption = DEFAULT_STORE,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this it is only shown.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Also what was set aside, and failed attempts at what is done.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what in the store no sweep's newest plan refers to; with --delete, remove it."""
    from orchestrator.disk import Space
    from orchestrator.kept import garbage, remove

    opened = open_store(store)
    found = garbage(opened, quarantine)
    by_kind: dict[str, Space] = defaultdict(Space)
    for each in found:
        by_kind[each.what] += Space(each.file.bytes, 1)
    total = sum(by_kind.values(), Space())
    if delete:
        remove(opened, found)
    if as_json:
        kinds = [{"kind": kind, "bytes": s.bytes, "files": s.files} for kind, s in sorted(by_kind.items())]
        print_json(
            {"store": address(store), "deleted": delete, "bytes": total.bytes, "files": total.files, "kinds": kinds}
        )
        return
    for kind, space in sorted(by_kind.items()):
        out.print(f"{kind:<11} {space}")
    if delete:
        out.print(f"Removed {total}.")
    elif found:
        words = "that no sweep's newest plan refers to. Nothing was removed; --delete does it."
        out.print(f"{total} {words}", soft_wrap=True)
    else:
        out.print("Every file is of some sweep's newest plan.")


@command
def export(
    sweep: SweepArgument,
    target: Annotated[str, typer.Argument(metavar="OUT.zip|OUT.npz", help="The file to write.")],
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    cell: Annotated[
        str | None, typer.Option(help="Only the images of this cell, as .npz for ADM's evaluator.", callback=given)
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="With --cell: the first so many.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Pack report, YAML, CSV, records and influences for somebody without the store; or the images of a cell."""
    from orchestrator.export import export as pack
    from orchestrator.export import export_images
    from orchestrator.plan import find_cell

    check_device(device)
    found, opened = read_plan(sweep, smoke), open_store(store)
    if cell is not None:
        made = export_images(found, opened, target, find_cell(found, cell), count, force, device)
    elif count is not None:
        raise BadInput("--count goes with --cell")
    else:
        made = pack(found, opened, target, report_pages(found), force)
    files = "" if made.files == 1 else f"{made.files} files, "
    out.print(f"{made.path}: {files}{size(made.bytes)}", markup=False, soft_wrap=True)


@command
def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The file; without it, those that are known.")
    ] = None,
) -> None:
    """Download weights of a feature network into the user's cache, checked by their hash."""
    from nag.weights import KNOWN, find
    from nag.weights import fetch as download

    if name is None:
        for known, entry in KNOWN.items():
            there = find(known)
            place = f"is at {there}" if there else f"{size(entry.size or 0)} from {entry.url}"
            out.print(f"{known}  {place}", markup=False, soft_wrap=True)
        return
    with progress() as (shown, bar):
        try:
            path = download(name, lambda done, of: shown.update(bar, completed=done, total=of or None))
        except ConnectionError as error:
            raise EnvironmentProblem(str(error)) from error
        except OSError as error:
            raise EnvironmentProblem(f"{name} cannot be kept: {error}") from error
        except ValueError as error:
            raise BadInput(f"{error}.") from error
    out.print(f"{path}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress() -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        yield shown, shown.add_task("fetching", total=None)


@command
def score(
    samples: Annotated[str, typer.Argument(metavar="FOLDER|NPZ", help="Images of one size.")],
    reference: Annotated[str, typer.Option(help="Images or statistics: a folder, an .npz file, a URL.")],
    features: Annotated[
        list[str] | None, typer.Option(help="An extractor, NAME or '{name: ..., ...}'; may be repeated.")
    ] = None,
    metrics: Annotated[list[str] | None, typer.Option(help="A metric, likewise; by default all that fit.")] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Only so many of the images.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Keep the features here; by default nothing is kept.", callback=given)
    ] = None,
    device: DeviceOption = "auto",
    micro_batch: Annotated[int, typer.Option(min=1, help="Images in the network at once.")] = 64,
    as_json: JsonOption = False,
) -> int:
    """Score images that something else made, as a sweep scores its own."""
    from orchestrator import engine, scoring
    from orchestrator.backends.local import Local
    from orchestrator.report.progress import watch
    from orchestrator.tasks import Options

    check_device(device)
    plan = scoring.planned(samples, reference, features or [], metrics or [], count)
    with contextlib.ExitStack() as stack:
        made = contextlib.nullcontext(store) if store is not None else tempfile.TemporaryDirectory(prefix=PREFIX)
        folder = stack.enter_context(made)
        opened = open_store(folder)
        options = Options(device=device, micro_batch=micro_batch)
        workers = min(2, len(os.sched_getaffinity(0)))
        with watch(err, plan, opened) as observer:
            failed = engine.run(plan, opened, lambda: Local(opened, workers, options), observer)
        if failed:
            for digest, reason in failed.items():
                err.print(f"{plan.tasks[digest].kind}: {reason}", style="red", markup=False)
            return 1
        found = list(scoring.results(plan, opened))
    if as_json:
        print_json(
            {"samples": samples, "reference": address(reference), "metrics": {f.metric: f.as_json() for f in found}}
        )
        return 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("metric", "value", "95 %", "for differences"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for one in found:
        value, low, high, extrapolated = (one.score[key] for key in ("value", "low", "high", "extrapolated"))
        interval = f"[{low:.4g}, {high:.4g}]" if low is not None else ""
        table.add_row(one.metric, text(value), interval, text(extrapolated))
    out.print(table)
    for line in dict.fromkeys(scoring.stamp_words(one) for one in found):
        out.print(Text(line, style="dim"), soft_wrap=True)
    if any(one.score["extrapolated"] is not None for one in found):
        out.print(Text(FOR_DIFFERENCES, style="dim"), soft_wrap=True)
    for reason in dict.fromkeys(f"{one.metric}: {one.score['reason']}" for one in found if one.score["reason"]):
        out.print(Text(reason, style="dim"), soft_wrap=True)
    return 0


def text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def size(number: float) -> str:
    from orchestrator.disk import size_text

    return size_text(number)
