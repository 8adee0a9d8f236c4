"""Cheap stand-ins for `--smoke`: a plan of the same shape at about a thousandth of the cost."""

from __future__ import annotations

import dataclasses
from typing import Any


def spread(values: list[Any], field: str, first: int, last: int) -> list[Any]:
    """The values with `field` set to `first` where it is as in the first value that has it, to `last` elsewhere. Values
    without the field stay as they are.
    """
    having = [value for value in values if _has(value, field)]
    start = getattr(having[0], field) if having else None
    return [
        dataclasses.replace(value, **{field: first if getattr(value, field) == start else last})
        if _has(value, field)
        else value
        for value in values
    ]


def _has(value: Any, field: str) -> bool:
    return any(each.name == field for each in dataclasses.fields(value))


def smoked(values: list[Any]) -> list[Any]:
    """`smoke()` of each value that is not None. Values that differed still do: an axis keeps its two ends."""
    return [value if value is None else _apart(value, values) for value in values]


def _apart(value: Any, values: list[Any]) -> Any:
    small = value.smoke()
    if type(small) is not type(value):  # a stand-in: its fields tell what it replaces
        return small
    first = next(other for other in values if type(other) is type(value))
    changes = {}
    for field in dataclasses.fields(value):
        was, now = getattr(value, field.name), getattr(small, field.name)
        if was != getattr(first, field.name) and now == getattr(first.smoke(), field.name):
            changes[field.name] = 2 * now if isinstance(now, int) and not isinstance(now, bool) else was
    return dataclasses.replace(small, **changes)
