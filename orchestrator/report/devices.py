"""The kinds of device that sampled cells. A comparison across kinds is marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nag import hardware
from orchestrator.report.comparisons import Comparison, groups
from orchestrator.report.formatting import listed
from orchestrator.report.results import Results

UNKNOWN = "unknown (sampled by an older version)"


def named(kinds: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Names of kinds of device (nag.hardware.kind)."""
    return tuple(sorted({hardware.words(kind) if kind else UNKNOWN for kind in kinds}))


def crossed(results: Results, row: Comparison) -> list[str]:
    """The kinds of device behind a comparison if there are several, else none."""
    sides = ((row.arm, row.params), (row.against, row.against_params))
    cells = [
        c for arm, params in sides for group in groups(results, arm) if group.params == params for c in group.cells
    ]
    kinds = sorted({name for cell in cells for name in named(cell.kinds_of_device)})
    return kinds if len(kinds) > 1 else []


def marked(results: Results, row: Comparison) -> dict[str, Any]:
    """A comparison as JSON, with `devices` if there are several kinds."""
    kinds = crossed(results, row)
    return row.as_json() | ({"devices": kinds} if kinds else {})


def note(results: Results, comparisons: Sequence[Comparison], metric: str) -> str:
    """Note which comparisons cross kinds of device; empty if none does."""
    rows = [(row, names) for row in comparisons if row.metric == metric and (names := crossed(results, row))]
    if not rows:
        return ""
    arms = list(dict.fromkeys(f"{row.arm} against {row.against}" for row, _ in rows))
    kinds = sorted({name for _, names in rows for name in names})
    return (
        f"Sampled on several kinds of device ({'; '.join(kinds)}): {listed(arms)}. "
        "Across kinds, samples of equal seeds agree up to rounding only."
    )
