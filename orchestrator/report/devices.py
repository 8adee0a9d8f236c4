"""Kinds of device on which cells were sampled. A comparison across kinds is marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nag import hardware
from orchestrator.report.comparisons import Comparison, groups
from orchestrator.report.formatting import listed
from orchestrator.report.results import Results

UNKNOWN = "unknown (sampled by an older version)"


def named(kinds: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Kinds of device (nag.hardware.kind) in words."""
    return tuple(sorted({hardware.words(kind) if kind else UNKNOWN for kind in kinds}))


def crossed(results: Results, row: Comparison) -> list[str]:
    """The kinds of device behind a comparison, if they are several."""
    sides = ((row.arm, row.params), (row.against, row.against_params))
    cells = [
        c for arm, params in sides for group in groups(results, arm) if group.params == params for c in group.cells
    ]
    found = sorted({name for cell in cells for name in named(cell.kinds_of_device)})
    return found if len(found) > 1 else []


def marked(results: Results, row: Comparison) -> dict[str, Any]:
    """A comparison for other programs, with `devices` where it goes across kinds of them."""
    found = crossed(results, row)
    return row.as_json() | ({"devices": found} if found else {})


def note(results: Results, comparisons: Sequence[Comparison], metric: str) -> str:
    """Which comparisons go across kinds of device; empty where none does."""
    rows = [(row, found) for row in comparisons if row.metric == metric and (found := crossed(results, row))]
    if not rows:
        return ""
    arms = list(dict.fromkeys(f"{row.arm} against {row.against}" for row, _ in rows))
    kinds = sorted({name for _, found in rows for name in found})
    return (
        f"Sampled on several kinds of device ({'; '.join(kinds)}): {listed(arms)}. "
        "Samples of equal seeds are equal there up to rounding only."
    )
