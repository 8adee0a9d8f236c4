"""cells.csv: every cell with its parameters, metrics at full precision, cost, and why it failed."""

from __future__ import annotations

import csv
import io

from orchestrator.report.results import Results

SCORE = ("value", "low", "high", "extrapolated")


def cells_csv(results: Results) -> str:
    keys = list(dict.fromkeys(key for cell in results.cells for key in cell.params))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = [f"{metric}{'' if part == 'value' else '_' + part}" for metric in results.metrics for part in SCORE]
    writer.writerow(
        ["arm", "digest", *map(_cell, keys), *scores, "network_calls", "worker_seconds", "complete", "reason"]
    )
    for cell in results.cells:
        values = [cell.value(metric, part) for metric in results.metrics for part in SCORE]
        price = [cell.network_calls, cell.seconds, str(cell.complete).lower(), cell.reason]
        row = [cell.arm, cell.digest, *(cell.params.get(key) for key in keys), *values, *price]
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> object:
    """A value for the file. An apostrophe keeps spreadsheets from reading text as a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else repr(value) if isinstance(value, float) else value
