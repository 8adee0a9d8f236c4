"""What `nagbench doctor` has found, a row each; and the rows of weights, which a machine and a site both have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.identity import MissingWeights
from orchestrator.plan.model import Plan


@dataclass(frozen=True)
class Row:
    name: str
    state: Literal["ok", "missing", "warning"]
    detail: str
    fix: str = ""
    needed: bool = True  # without it nothing, or nothing on this store, runs


def weights(needed: Iterable[str]) -> list[Row]:
    """The files of feature networks that can be fetched: which are here, and are they whole?"""
    from nag.pretrained import KNOWN, find

    rows, needed = [], frozenset(needed)
    for name, known in KNOWN.items():
        found, fix = find(name), f"nagbench fetch {name}"
        if found is None:
            rows.append(Row("weights", "missing", f"{name} is not here", fix, name in needed))
        elif known.size is not None and found.stat().st_size != known.size:
            detail = f"{found} has {found.stat().st_size:,} bytes, not {known.size:,}"
            rows.append(Row("weights", "missing", detail, f"Remove it, then: nagbench fetch {name}", name in needed))
        else:
            rows.append(Row("weights", "ok", str(found), needed=False))
    return rows


def missing_weights(plan: Plan) -> list[str]:
    """The names of downloaded weights that a sweep needs and that are not on this machine."""
    return [found.name for found in plan.outside.values() if isinstance(found, MissingWeights)]
