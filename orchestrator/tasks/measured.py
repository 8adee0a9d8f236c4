"""Numbers in a task's params that earlier tasks measure: `{"measured": [digest, ...]}` in place of a number.

Each digest is of a `measure` task of the effective scale, and among the inputs of the task that has it in its params.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.tasks.context import Context

MEASURED = "measured"
DIGITS = 4  # significant ones of a measured scale


def measured(digests: Iterable[str]) -> dict[str, list[str]]:
    """The value of a field that is the mean of what these measure tasks record."""
    return {MEASURED: list(digests)}


def inputs_of(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """The measure tasks that an identity's fields name, in their order."""
    fields = identity["fields"].values()
    return tuple(digest for value in fields if _is_measured(value) for digest in value[MEASURED])


def resolved(context: Context, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identity with numbers in place of measured fields. Raises MissingFile if one is not measured yet."""
    if not inputs_of(identity):
        return identity
    fields = {
        name: mean_scale([_scale(context, digest) for digest in value[MEASURED]]) if _is_measured(value) else value
        for name, value in identity["fields"].items()
    }
    return {**identity, "fields": fields}


def mean_scale(scales: Iterable[float]) -> float:
    """The mean of measured effective scales with 4 significant digits, at least 1: as the scale of CFG 1 is off."""
    known = list(scales)
    return max(1.0, float(f"{sum(known) / len(known):.{DIGITS}g}"))


def _is_measured(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {MEASURED}


def _scale(context: Context, digest: str) -> float:
    return scale_in(context.store.read_record(context.task(digest).record_name))


def scale_in(record: Mapping[str, Any]) -> float:
    """The effective scale in the record of a measure task; 1, off, if the class changes nothing of what the network
    predicts, so that no scale does.
    """
    score = record["values"]["effective_scale"]
    return 1.0 if score["value"] is None else float(score["value"])
