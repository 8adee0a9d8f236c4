"""How each metric was measured, as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.report.formatting import metric_name, short
from orchestrator.report.results import Results
from orchestrator.report.table import Table

CONTENT = re.compile(r"[0-9a-f]{32}/?")  # the content of a file, in place of its path
DIGITS = 12  # of a hash
HEADINGS = ("metric", "N", "measured by", "reference", "labels")


def stamps_table(results: Results) -> Table | None:
    """A row for each way in which a metric was measured."""
    rows: dict[str, list[tuple[str, ...]]] = {metric: [] for metric in results.metrics}
    for cell in results.cells:
        for metric, entry in cell.scores.items():
            stamp = entry["stamp"]
            row = (
                metric_name(results, metric) + results.setting(metric),
                f"{stamp['count']:,}",
                _measured_by(results.mode(metric), results.prepares(metric), stamp)
                + (f", {entry['states']}" if entry.get("states") else ""),
                _reference(results, metric, stamp),
                str(stamp.get("labels", "–")),
            )
            if row not in rows.get(metric, [row]):
                rows[metric].append(row)
    every = [row for metric_rows in rows.values() for row in metric_rows]
    return Table.plain(HEADINGS, every) if every else None


def _measured_by(mode: str, prepares: str, stamp: Mapping[str, Any]) -> str:
    """The extractor or noise-shift estimator with its weights, how it prepares images, and what decoded latents."""
    parts = [_named(stamp.get("extractor") or stamp.get("measure"))]
    if mode and f"mode {mode}" not in parts[0]:
        parts[0] += f" mode {mode}"  # how it resizes, even if that is the default
    weights = stamp.get("weights") or stamp.get("estimator")
    parts += [f"weights {weights[:DIGITS]}"] if isinstance(weights, str) else []
    parts += [prepares] if prepares else []
    decode = stamp.get("decode")
    parts += [f"decoded by {_named(decode)}"] if decode else []
    return ", ".join(parts)


def _reference(results: Results, metric: str, stamp: Mapping[str, Any]) -> str:
    """The number of reference images, and the hash of their source."""
    images = stamp.get("reference_size")
    if images:
        return f"{images:,} images, {stamp['reference_content'][:DIGITS]}"
    return f"published moments, {stamp['reference_content'][:DIGITS]}" if results.is_distance(metric) else "–"


def _named(identity: Any) -> str:
    """`digits`, or `digits steps 5` if fields differ from their defaults."""
    if not isinstance(identity, dict):
        return "–"
    fields = {key: short(value) for key, value in identity.get("fields", {}).items()}
    settings = [f"{key} {value[:DIGITS] if CONTENT.fullmatch(value) else value}" for key, value in fields.items()]
    return " ".join([identity["name"], *settings])
