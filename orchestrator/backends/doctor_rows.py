"""A row of `nagbench doctor`, and the rows of pretrained weights, which all kinds of site share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.identity import MissingWeights
from orchestrator.plan.model import Plan


@dataclass(frozen=True)
class DoctorRow:
    name: str
    state: Literal["ok", "missing", "warning"]
    detail: str
    fix: str = ""
    needed: bool = True  # whether nothing runs without it, or nothing with this store


def weights(needed: Iterable[str]) -> list[DoctorRow]:
    """Which pretrained feature networks are on this machine, and whether their files are complete."""
    from nag.pretrained import KNOWN, find

    rows, needed = [], frozenset(needed)
    for name, known in KNOWN.items():
        path, fix = find(name), f"nagbench fetch {name}"
        if path is None:
            rows.append(DoctorRow("weights", "missing", f"{name} is not here", fix, name in needed))
        elif known.size is not None and path.stat().st_size != known.size:
            detail = f"{path} has {path.stat().st_size:,} bytes, not {known.size:,}"
            rows.append(
                DoctorRow("weights", "missing", detail, f"Remove it, then: nagbench fetch {name}", name in needed)
            )
        else:
            rows.append(DoctorRow("weights", "ok", str(path), needed=False))
    return rows


def missing_weights(plan: Plan) -> list[str]:
    """The names of downloaded weights that a sweep needs and that are not on this machine."""
    return [each.name for each in plan.outside.values() if isinstance(each, MissingWeights)]
