"""What a sweep cost: worker time and NFE, each result counted once however many cells share it."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.errors import CorruptFile, MissingFile
from orchestrator.report import precisions
from orchestrator.report.formatting import listed, plural, seconds_text
from orchestrator.report.results import Results
from orchestrator.store.store import Store


def costs(results: Results, store: Store) -> list[str]:
    cells = {}
    for planned, cell in zip(results.plan.cells, results.cells, strict=True):
        if cell.network_calls is not None:
            cells[cell.digest] = (cell, planned.count)
    lines = []
    if cells:
        seconds = sum(cell.seconds or 0.0 for cell, _ in cells.values())
        calls = sum((cell.network_calls or 0) * count for cell, count in cells.values())
        lines.append(
            f"Sampling and features of {plural(len(cells), 'different cell')}: {seconds_text(seconds)} of worker time, "
            f"{calls:,.0f} NFE."
        )
    skipped = {name for record in _records(results, store, "reference") for name in record.get("skipped", ())}
    if skipped:
        words = "could not be read and were replaced by others of their classes (on_error: skip)"
        lines.append(f"{plural(len(skipped), 'image')} {words}, such as {min(skipped)}.")
    trained = _records(results, store, "train")
    if trained:
        seconds = sum(float(record["seconds"]) for record in trained)
        lines.append(f"{plural(len(trained), 'training')}: {seconds_text(seconds)} of worker time.")
    known = results.plan.instances
    variance = {known[r["digest"]].name for r in trained if r.get("trains_variance") and r["digest"] in known}
    if variance:
        lines.append(f"The learned variance was trained too, with its bound in the loss: {listed(sorted(variance))}.")
    lines.append(f"Networks evaluated in {precisions.words(results.plan.sweep.precision)}.")
    last = max((cell.finished for cell in results.cells), default=0.0)
    if last:
        lines.append(f"Last result: {time.strftime('%Y-%m-%d %H:%M', time.gmtime(last))} UTC.")
    return lines


def _records(results: Results, store: Store, kind: str) -> list[dict[str, Any]]:
    records = []
    for task in results.plan.tasks.values():
        if task.kind == kind:
            try:
                records.append(store.read_record(task.record_name, repair=False))
            except (MissingFile, CorruptFile):  # not done yet, or to be repeated
                continue
    return records
