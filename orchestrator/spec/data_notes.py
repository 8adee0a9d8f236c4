"""What `check` tells of data sets: the names of their classes, which files are left out, which layout was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nag.datasets.folder_layout import readable
from nag.registry import source_of
from orchestrator.spec.classes import notes
from orchestrator.spec.model import Sweep, networks_of
from orchestrator.spec.reference_file import Published

LISTED = 12  # classes that a line names


def class_names(data: Any) -> tuple[str, ...]:
    """The names of a data set's classes as text that any encoding can write; () if it has none or is not on this
    machine. (A user's own class may use the name for something else.)
    """
    if source_of(data) is None:
        with contextlib.suppress(FileNotFoundError):
            return tuple(map(readable, data.class_names))
    return ()


def told(sweep: Sweep) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """A line for each thing to know of the sweep's data sets, and the names of their classes by the key of the data set
    in the sweep. No image is read.
    """
    lines, classes = [], {}
    for key, data in _data_sets(sweep):
        if names := class_names(data):
            classes[key] = names
            more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
            lines.append(f"{key}: {len(names):,} classes: {', '.join(names[:LISTED])}{more}")
        if source_of(data) is None:
            with contextlib.suppress(FileNotFoundError):
                lines += [f"{key}: {readable(note)}" for note in data.notes()]
    return [*lines, *notes(sweep)], classes


def _data_sets(sweep: Sweep) -> Iterator[tuple[str, Any]]:
    """Each data set once, with its key."""
    seen: list[Any] = []
    named = [(f"networks.{each.name}.data", each.data) for each in networks_of(sweep.cells, sweep.estimator)]
    if sweep.score is not None and not isinstance(sweep.score.reference, Published):
        named.append(("score.reference", sweep.score.reference))
    for key, data in named:
        if data is not None and data not in seen:
            seen.append(data)
            yield key, data
