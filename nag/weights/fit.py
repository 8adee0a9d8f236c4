"""Whether weights are those of a network: by name, shape and dtype."""

from __future__ import annotations

from collections.abc import Mapping

from nag.header import short_repr

NAMED = 8  # differences in a message

Kind = tuple[tuple[int, ...], str]  # shape and dtype of a weight


def differences(wanted: Mapping[str, Kind], given: Mapping[str, Kind]) -> str | None:
    """The weights by name and shape that are missing, unknown, or of another shape or dtype; None if all fit."""
    words = [f"{_told(name)} {_list(shape)} is missing" for name, (shape, _) in wanted.items() if name not in given]
    for name, (shape, _) in given.items():
        if name not in wanted:
            words.append(f"{_told(name)} {_list(shape)} is not known")
    for name in (name for name in wanted if name in given and wanted[name] != given[name]):
        (shape, dtype), (other, of) = wanted[name], given[name]
        problem = f"has shape {_list(other)}, not {_list(shape)}" if shape != other else f"is {of}, not {dtype}"
        words.append(f"{_told(name)} {problem}")
    if not words:
        return None
    return "; ".join(words[:NAMED]) + (f"; and {len(words) - NAMED} more" if len(words) > NAMED else "")


def _list(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(side) for side in shape)}]"


def _told(name: str) -> str:
    """The name of a weight, for a message: as its own code has it."""
    return short_repr(name)[1:-1].removeprefix("inner.")
