"""`nagbench gc`: remove files that no sweep needs any more."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import typer

from orchestrator.commands.app import command, open_store, out, print_json
from orchestrator.commands.options import JsonOption, StoreOption
from orchestrator.display import address
from orchestrator.notebook import DEFAULT_STORE


@command
def gc(
    store: StoreOption = DEFAULT_STORE,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove these files; otherwise they are only counted.")
    ] = False,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Also damaged files that were set aside, and failed attempts at finished tasks."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Count the files of a store that the newest plan of no sweep needs; --delete removes them."""
    from orchestrator.retention.garbage import garbage, remove
    from orchestrator.retention.usage import Space

    opened = open_store(store)
    removable = garbage(opened, quarantine)
    by_kind: dict[str, Space] = defaultdict(Space)
    for each in removable:
        by_kind[each.what] += Space(each.file.bytes, 1)
    total = sum(by_kind.values(), Space())
    if delete:
        remove(opened, removable)
    if as_json:
        kinds = [{"kind": kind, "bytes": s.bytes, "files": s.files} for kind, s in sorted(by_kind.items())]
        print_json(
            {"store": address(store), "deleted": delete, "bytes": total.bytes, "files": total.files, "kinds": kinds}
        )
        return
    for kind, space in sorted(by_kind.items()):
        out.print(f"{kind:<11} {space}")
    if delete:
        out.print(f"Removed {total}.")
    elif removable:
        words = "that no sweep's newest plan needs. Nothing was removed; --delete removes them."
        out.print(f"{total} {words}", soft_wrap=True)
    else:
        out.print("Every file is needed by a sweep's newest plan.")
