"""Published numbers for a sweep that repeats a paper: results/reference/*.yaml, named by `published` in the sweep.

Reports show them next to ours and never rank them together: the evaluator, the reference images, N or even the
number of GPUs can change a value.

    source: who published them, and where
    protocol: how they were measured, or unknown
    count: samples
    tolerance: {fid: 0.3}           optional: within this, our value confirms theirs; a row can have its own
    rows:
      - {arm: cfg, params: {cfg.scale: 1.5}, fid: 2.06}
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.errors import BadInput, unknown
from orchestrator.spec.construct import local_path
from orchestrator.spec.model import Cell, Paper, PaperRow, ScoreSection
from orchestrator.spec.parameters import Scalar
from orchestrator.spec.score_section import metric_names
from orchestrator.spec.yaml_nodes import Node, parse, read_text

KIND = ("published-numbers", "It needs source, protocol, count and rows.")
NEEDED = ("source", "protocol", "count", "rows")
KEYS = (*NEEDED, "tolerance")


def read_paper(
    node: Node, arms: Iterable[str], cells: Iterable[Cell], score: ScoreSection | None, whole: bool
) -> Paper:
    """Read the file that `published` names, and check it against the sweep. whole: the sweep has all its cells."""
    path = local_path(node)
    try:
        text = read_text(path, KIND)
    except BadInput as error:
        raise node.error(f"{error}") from error
    root = parse(text, path, KIND)
    root.mapping("{source: ..., protocol: ..., count: ..., rows: [...]}")
    root.only(KEYS)
    for key in NEEDED:
        if root.get(key) is None:
            raise root.error(f"{key!r} is missing. {KIND[1]}")
    metrics = [*metric_names(score)] if score else []
    rows = []
    for item in root.value["rows"].entries("{arm: cfg, fid: 2.06}"):
        row = _row(item, arms, metrics if whole else None)
        if whole and not any(row.is_of(cell.arm, cell.params) for cell in cells):
            raise item.error(f"no cell of arm {row.arm!r} has {dict(row.params)}.")
        rows.append(row)
    count = _number(root.value["count"])
    if count < 1 or count != int(count):
        raise root.value["count"].error(f"expected a whole number of at least 1, got {count:g}.")
    return Paper(root.value["source"].text(), root.value["protocol"].text(), int(count), tuple(rows), _allowed(root))


def _allowed(node: Node) -> dict[str, float]:
    given = node.get("tolerance")
    return {key: _number(child) for key, child in given.mapping("{fid: 0.3}").items()} if given else {}


def _row(node: Node, arms: Iterable[str], metrics: Iterable[str] | None) -> PaperRow:
    fields = node.mapping("{arm: cfg, fid: 2.06}")
    if "arm" not in fields:
        raise node.error("'arm' is missing; it names the arm of the sweep that repeats this row.")
    if fields["arm"].text() not in arms:
        raise fields["arm"].error(unknown("arm", fields["arm"].value, arms))
    given = fields["params"].mapping("{cfg.scale: 1.5}") if "params" in fields else {}
    params: dict[str, Scalar] = {}
    for key, child in given.items():
        if not isinstance(child.value, Scalar):
            raise child.error("expected a number or text.")
        params[key] = child.value
    values = {}
    for key, child in fields.items():
        if key in ("arm", "params", "tolerance"):
            continue
        if metrics is not None and key not in metrics:
            raise child.error(unknown("metric", key, metrics))
        values[key] = _number(child)
    if not values:
        raise node.error("it has no value, such as fid: 2.06.")
    return PaperRow(fields["arm"].value, params, values, _allowed(node))


def _number(node: Node) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise node.error("expected a number.")
    return float(node.value)
