"""The science of nagbench: networks, noise, guidance, samplers, features and metrics; usable without a sweep.

Importing this package imports no torch; the names below load their module when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nag.checkpoint import load_network as load_network
    from nag.metrics.frechet import frechet_distance as frechet_distance
    from nag.metrics.moments import Moments as Moments
    from nag.registry import build as build
    from nag.sampling import sample as sample

_HOME = {
    "load_network": "nag.checkpoint",
    "build": "nag.registry",
    "sample": "nag.sampling",
    "frechet_distance": "nag.metrics.frechet",
    "Moments": "nag.metrics.moments",
}
__all__ = ["Moments", "build", "frechet_distance", "load_network", "sample"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nagbench")
    if name not in _HOME:
        raise AttributeError(f"module 'nag' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
