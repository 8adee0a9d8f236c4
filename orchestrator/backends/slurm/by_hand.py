"""The command that does by hand what an element of an array did: `python -m orchestrator.backends.slurm.by_hand STORE
ARRAY ELEMENT PLAN OPTIONS`. It publishes like the element; it leaves no mark, and heeds none.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from orchestrator.tasks import Options


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an element's options that are of orchestrator.tasks.Options."""
    known = {found.name for found in dataclasses.fields(Options)}
    return {key: value for key, value in options.items() if key in known}


def again(command: str, store: str, array: str, index: int, plan: str, options: Mapping[str, Any]) -> str:
    """What a person types. command: how Python is called with the code of the sweep, as a shell writes it."""
    told = json.dumps(settings(options))
    words = ["-m", "orchestrator.backends.slurm.by_hand", store, array, str(index), plan, told]
    return f"{command} {shlex.join(words)}"


def main() -> int:
    from orchestrator.backends.slurm.element import Running
    from orchestrator.backends.slurm.process import prepare
    from orchestrator.backends.slurm.waves import Wave
    from orchestrator.store import Store

    store, name, index, plan, options = sys.argv[1:6]
    _, sweep, wave, array = name.removesuffix(".json").split("/")
    prepare(None)
    place = (Wave(sweep, int(wave)), int(array), int(index))
    running = Running(Store(store), *place, plan, json.loads(options), by_hand=True)
    return int(running.run() != "done" or bool(running.ends))


if __name__ == "__main__":
    sys.exit(main())
