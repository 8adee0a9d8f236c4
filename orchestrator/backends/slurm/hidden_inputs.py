"""Inputs of an array task that another node has written, but caches of the file system (NFS, Lustre) still hide.

Slurm starts an array task after those that it waits for have ended. So an input that is missing was either not made, or
it becomes visible within a time that the site states (`visible_after_s`), counted from the start of the array task.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from orchestrator.backends.slurm.waves import Wave, newest_marks, read_array, read_or_empty
from orchestrator.errors import CorruptFile
from orchestrator.store.layout import digest_of
from orchestrator.store.store import Store


def is_there(store: Store, wave: Wave, name: str, until: float) -> bool:
    """Whether an input is there, or appears before `until` (seconds since the epoch). What this wave is known not to
    have made is not waited for.
    """
    if store.exists(name):
        return True
    left = until - time.time()
    return left > 0 and digest_of(name) not in set(_not_made(store, wave)) and store.appears(name, left)


def _not_made(store: Store, wave: Wave) -> Iterator[str]:
    """Digests of the tasks in bundles that have ended otherwise than done."""
    for (place, index), (_, mark) in newest_marks(store, wave, "ends").items():
        ended = read_or_empty(store, mark)
        if ended.get("outcome") == "done" and not ended.get("bundles"):
            continue
        try:
            bundles = read_array(store, wave.array_name(place)).tasks[index].bundles
        except CorruptFile:
            continue
        whole = ended.get("outcome") != "done"  # it may have ended before it came to the others
        for bundle in bundles if whole else [bundles[end["bundle"]] for end in ended["bundles"]]:
            yield from (digest for digest, _ in bundle.steps)
