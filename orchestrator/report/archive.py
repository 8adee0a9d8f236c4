"""`nagbench export`: a sweep's results as one zip file for readers without the store.

Equal results give equal bytes: names are sorted, times and permissions fixed.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nag.whole_file import whole_file
from orchestrator.errors import BadInput, CorruptFile, MissingFile, file_errors
from orchestrator.identity import canonical
from orchestrator.plan.model import Plan, StoredPlan
from orchestrator.plan.stored_plan import document as document_of
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.document import document
from orchestrator.report.results import Results, collect, influence_of
from orchestrator.spec.overrides import options
from orchestrator.store.store import Store
from orchestrator.tasks import code

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip file can hold

README = """\
The sweep {name}, exported by nagbench: {done} of {total} cells are scored.

sweep.yaml        the question. Repeat it: nagbench run sweep.yaml{options}{code}
results.json      cells, comparisons with intervals, what is missing and what failed (nagbench report --json)
cells.csv         a row for each cell: arm, digest, parameters, metrics with 95 % intervals, cost{report}
influence/        <digest of a cell>.npz (numpy.load): how far each sample moves a metric of the cell, an array for each
                  metric, in the order of the samples. The metric's 95 % interval is its value +- 1.96 std / sqrt(N);
                  sample i has the same noise in every cell, so the influence on a difference is the
                  difference of the influences.
plan.json         what each task is: all that changes its result, and the digests of its inputs
records/          <kind>/<digest>.json: what came out of each task, when, how long it took, on which machine

Samples, features and weights are not here: they follow from sweep.yaml.
"""


@dataclass(frozen=True)
class Exported:
    path: Path
    files: int
    bytes: int


def export(
    plan: StoredPlan, store: Store, path: str | Path, report: Path | None = None, force: bool = False
) -> Exported:
    """Write the zip file, whole or not at all. report: the folder of the sweep's report, if there is one.

    Raises BadInput if the file exists (unless force) or its path is not valid, EnvironmentProblem if it cannot be
    written.
    """
    target = target_file(path, f"{plan.sweep.name}.zip", force)
    count = 0
    with file_errors(f"{target} cannot be written"), whole_file(target) as temporary:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
            for name, data in sorted(_files(plan, store, report), key=lambda entry: entry[0]):
                entry = zipfile.ZipInfo(f"{plan.sweep.name}/{name}", EPOCH)
                entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
                file.writestr(entry, data())
                count += 1
        check_whole(temporary, count)
    return Exported(target, count, target.stat().st_size)


def check_whole(path: Path, entries: int) -> None:
    """Read a zip file back, because some file systems report a full disk late or not at all. Raises OSError."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    try:
        with zipfile.ZipFile(path) as written:
            whole = len(written.infolist()) == entries and written.testzip() is None
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        raise OSError("what was read back is not what was written; the disk may be full")


def target_file(path: str | Path, example: str, force: bool) -> Path:
    """The file to write. example: a name for it. Raises BadInput if it must not be written."""
    target = Path(path)
    if target.is_dir():
        raise BadInput(f"{target} is a folder; give the name of the {example[-3:]} file, such as {target / example}.")
    if target.exists() and not target.is_file():
        raise BadInput(f"{target} exists and is not a file. Give another name.")
    if target.exists() and not force:
        raise BadInput(f"{target} already exists. Give another name, or --force to replace it.")
    if not target.parent.is_dir():
        raise BadInput(f"{target}: the folder {target.parent} does not exist. Create it first.")
    return target


def _files(plan: StoredPlan, store: Store, report: Path | None) -> Iterator[tuple[str, Any]]:
    """Each file's name, and a function that returns its bytes, so that one file at a time is in memory."""
    results = collect(plan, store)
    done = sum(cell.complete for cell in results.cells)
    more = "\nreport/           the report, to be opened in a browser (report.html), and its figures" if report else ""
    again = f" {options(plan.sweep.overrides)}" if plan.sweep.overrides else ""
    own = "\n*.py              your own code that it uses" if plan.code else ""
    text = README.format(
        code=own, options=again, name=plan.sweep.name, done=done, total=len(results.cells), report=more
    )
    yield "README.txt", text.encode
    yield "sweep.yaml", plan.sweep.text.encode
    yield from _own_code(plan, store)
    yield "results.json", lambda: _json(document(results, store))
    yield "cells.csv", cells_csv(results).encode
    if report is not None:
        for file in sorted(report.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                yield f"report/{file.relative_to(report).as_posix()}", file.read_bytes
    yield from _records(plan, store)
    yield from _influences(results, store)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, sort_keys=True) + "\n").encode()


def _own_code(plan: StoredPlan, store: Store) -> Iterator[tuple[str, Any]]:
    """The user's own files, under the paths of the plan, except paths that would lead out of the zip file."""
    for digest, places in plan.code.items():
        held = plan.sweep.code[digest] if isinstance(plan, Plan) else code.read(store, digest)
        for path, place in places.items():
            if not PurePosixPath(place).is_relative_to("/") and ".." not in PurePosixPath(place).parts:
                yield place, lambda data=held.files[path]: data


def _records(plan: StoredPlan, store: Store) -> Iterator[tuple[str, Any]]:
    """The plan, and the record of each task that is done and readable. A block's record stays in its block."""
    public = {key: value for key, value in document_of(plan).items() if key != "places"}  # paths are private
    yield "plan.json", (canonical(public) + "\n").encode
    for task in plan.tasks.values():
        if not task.makes_blocks:
            try:
                record = store.read_record(task.record_name, repair=False)
            except (MissingFile, CorruptFile):
                continue
            yield task.record_name, (canonical(record) + "\n").encode


def _influences(results: Results, store: Store) -> Iterator[tuple[str, Any]]:
    import numpy as np

    def packed(entries: dict[str, dict[str, Any]]) -> bytes:
        out = io.BytesIO()
        arrays = {name: array for name, one in entries.items() if (array := influence_of(store, one)) is not None}
        np.savez(out, **arrays)
        return out.getvalue()

    for digest, cell in {cell.digest: cell for cell in results.cells}.items():
        entries = {name: entry for name, entry in sorted(cell.scores.items()) if _has_arrays(store, entry["task"])}
        if entries:
            yield f"influence/{digest}.npz", lambda entries=entries: packed(entries)


def _has_arrays(store: Store, task: str) -> bool:
    return "arrays.safetensors" in store.list(f"files/{task}")
