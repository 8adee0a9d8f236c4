"""What a report says, before it is a page: sentences, tables and figures in their order. html.py and markdown.py
write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nag.registry import name_of
from orchestrator.report.answer import answer, limits
from orchestrator.report.comparisons import Comparison, groups
from orchestrator.report.costs import costs
from orchestrator.report.estimates import chosen, headline_metric
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.every import draw_all
from orchestrator.report.formatting import metric_name, plural, short
from orchestrator.report.published_values import paper_table
from orchestrator.report.results import CellResult, Results
from orchestrator.report.tables import Table, arms_tables, settings_tables, shift_table
from orchestrator.store.store import Store

CONTENT = re.compile(r"[0-9a-f]{32}/?")  # of a file, in place of its path
SHOWN = 12  # digits of a hash
TITLES = {
    "arms": "Arms",
    "published": "Published numbers beside ours",
    "scale": "Distance against guidance scale",
    "precision_recall": "Precision against recall",
    "calls": "Distance against network calls",
    "shift": "Noise shift",
    "samples": "Samples from the same noise",
}


@dataclass(frozen=True)
class Content:
    sweep: str
    notices: tuple[str, ...]  # what is partial, before anything else
    answer: tuple[str, ...]
    limits: tuple[str, ...]
    arms: tuple[Table, ...]
    settings: tuple[Table, ...]  # every setting, where arms have several
    published: Table | None
    drawings: tuple[Drawing, ...]
    shift: Table | None
    notes: tuple[str, ...]  # on samples that have no picture
    failed: Table | None
    missing: Table | None
    stamps: Table | None
    costs: tuple[str, ...]
    command: str
    text: str  # the sweep file

    def drawn(self, section: str) -> list[Drawing]:
        return [drawing for drawing in self.drawings if drawing.section == section]


def content(results: Results, comparisons: Sequence[Comparison], store: Store, command: str) -> Content:
    best = chosen(results)
    metric = headline_metric(results)
    drawings, notes = draw_all(results, comparisons, store)
    scored = metric is not None
    several = any(len(groups(results, arm.name)) > 1 for arm in results.plan.sweep.arms)
    return Content(
        results.plan.sweep.name,
        tuple(_notices(results, metric)),
        tuple(filter(None, answer(results, comparisons, best))),
        tuple(limits(results, comparisons, best)),
        arms_tables(results, comparisons, best) if scored else (),
        settings_tables(results, comparisons) if scored and several else (),
        paper_table(results) if scored else None,
        tuple(drawings),
        shift_table(results, comparisons, best),
        tuple(notes) if any(cell.complete for cell in results.cells) else (),
        _cells([cell for cell in results.cells if cell.reason is not None], "reason"),
        _cells([cell for cell in results.cells if not cell.complete and cell.reason is None], None),
        _stamps(results),
        tuple(costs(results, store)),
        command,
        results.plan.sweep.text,
    )


def _notices(results: Results, metric: str | None) -> list[str]:
    total = len(results.cells)
    done = sum(cell.complete for cell in results.cells)
    failed = sum(cell.reason is not None for cell in results.cells)
    if results.plan.sweep.score is None and metric is None:
        words = (
            f"This sweep has no score section: it samples and compares nothing. {done} of {plural(total, 'cell')} done."
        )
        return [words + (f" {failed} failed." if failed else "")]
    if done == total:
        return []
    state = f"{done} of {plural(total, 'cell')} done, {failed} failed, {total - done - failed} still to do"
    partly = sum(bool(cell.scores) and not cell.complete for cell in results.cells)
    state += f" ({partly} of them scored in part)" if partly else ""
    if metric is None:
        return [f"Nothing is scored yet: {state}. The command below goes on."]
    return [f"Partial: {state}. What follows holds for what is done, and may change."]


def _cells(cells: Sequence[CellResult], key: str | None) -> Table | None:
    if not cells:
        return None
    columns = ["arm", "setting", "cell", *([key] if key else [])]
    rows = []
    for cell in cells:
        setting = ", ".join(f"{name} {short(value)}" for name, value in cell.params.items())
        rows.append([cell.arm, setting, cell.digest[:12], *([str(getattr(cell, key))] if key else [])])
    return Table.of(columns, rows)


def _stamps(results: Results) -> Table | None:
    """How each metric was measured; a metric measured in two ways has two rows."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in results.cells:
        for metric, entry in cell.scores.items():
            if metric not in results.metrics:
                continue
            stamp = entry["stamp"]
            row = [
                metric_name(results, metric) + results.setting(metric),
                f"{stamp['count']:,}",
                _measured_by(results, stamp) + (f", {entry['states']}" if entry.get("states") else ""),
                _reference(results, metric, stamp),
                str(stamp.get("labels", "–")),
            ]
            found[(metric, str(row))] = row
    if not found:
        return None
    order = {metric: place for place, metric in enumerate(results.metrics)}
    rows = [row for _, row in sorted(found.items(), key=lambda item: order[item[0][0]])]
    return Table.of(["metric", "N", "measured by", "reference", "labels"], rows)


def _measured_by(results: Results, stamp: Mapping[str, Any]) -> str:
    """The extractor with its weights, and what made images of latents; or the meter."""
    told = [_named(stamp.get("extractor") or stamp.get("measure"))]
    for extractor in results.plan.sweep.score.features if results.plan.sweep.score else ():
        mode = extractor.mode
        if mode and told[0].split()[0] == name_of(extractor) and f"mode {mode}" not in told[0]:
            told[0] += f" mode {mode}"  # how it resizes, also where that is the default
    weights = stamp.get("weights") or stamp.get("estimator")
    told += [f"weights {weights[:SHOWN]}"] if isinstance(weights, str) else []
    decode = stamp.get("decode")
    told += [f"decoded by {_named(decode)}"] if decode else []
    return ", ".join(told)


def _reference(results: Results, metric: str, stamp: Mapping[str, Any]) -> str:
    """How many images, and the hash of what they are from."""
    images = stamp.get("reference_size")
    if images:
        return f"{images:,} images, {stamp['reference_content'][:SHOWN]}"
    return f"published moments, {stamp['reference_content'][:SHOWN]}" if results.is_distance(metric) else "–"


def _named(identity: Any) -> str:
    """`digits`, or `digits steps 5` where fields are not at their default."""
    if not isinstance(identity, dict):
        return "–"
    fields = {key: short(value) for key, value in identity.get("fields", {}).items()}
    told = [f"{key} {value[:SHOWN] if CONTENT.fullmatch(value) else value}" for key, value in fields.items()]
    return " ".join([identity["name"], *told])
