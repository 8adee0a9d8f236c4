"""From a sweep file to a comparison. In a notebook: `orchestrator.open_sweep("sweeps/digits.yaml").cells()`.

Importing this package imports nothing else; `open_sweep` and `__version__` are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import open_sweep as open_sweep

__all__ = ["open_sweep"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nagbench")
    if name != "open_sweep":
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    from orchestrator.notebook import open_sweep

    return open_sweep
