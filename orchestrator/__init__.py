"""From a sweep file to an answer. In a notebook: `orchestrator.open_sweep("sweeps/digits.yaml").cells()`.

Importing this package imports nothing else; the name below loads its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import open_sweep as open_sweep

__all__ = ["open_sweep"]


def __getattr__(name: str) -> Any:
    if name != "open_sweep":
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    from orchestrator.notebook import open_sweep

    return open_sweep
