"""Why a task ended badly, in one word that all backends share."""

from __future__ import annotations


def cause_of(error: BaseException) -> str:
    """device_memory, not_finite, bad_input, environment or died."""
    from orchestrator.errors import NagbenchError

    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
        return "device_memory"
    if isinstance(error, FloatingPointError) or type(error).__name__ == "NotFinite":
        return "not_finite"
    return "bad_input" if isinstance(error, NagbenchError | ValueError) else "died"
