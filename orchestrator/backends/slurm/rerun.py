"""Run an array task by hand: `python -m orchestrator.backends.slurm.rerun STORE ARRAY INDEX PLAN OPTIONS`.

It publishes as the array task does, but writes no marks and ignores stops.
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
    runner = ArrayTaskRunner(Store(store), *place, plan, json.loads(options), by_hand=True)
    return int(runner.run() != "done" or bool(runner.ends))


if __name__ == "__main__":
    sys.exit(main())
