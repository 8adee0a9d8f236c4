"""The command that does by hand what an array task of an array did: `python -m orchestrator.backends.slurm.rerun STORE
ARRAY INDEX PLAN OPTIONS`. It publishes like the array task; it leaves no mark, and heeds none.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    from orchestrator.backends.slurm.array_task import ArrayTaskRunner
    from orchestrator.backends.slurm.process import prepare
    from orchestrator.backends.slurm.waves import Wave
    from orchestrator.store.store import Store

    store, name, index, plan, options = sys.argv[1:6]
    _, sweep, wave, array = name.removesuffix(".json").split("/")
    prepare(None)
    place = (Wave(sweep, int(wave)), int(array), int(index))
    running = ArrayTaskRunner(Store(store), *place, plan, json.loads(options), by_hand=True)
    return int(running.run() != "done" or bool(running.ends))


if __name__ == "__main__":
    sys.exit(main())
