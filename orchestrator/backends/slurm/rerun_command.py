"""The command line that does by hand what an array task did."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

from orchestrator.tasks.context import Options


def worker_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an array task's options that are of orchestrator.tasks.context.Options."""
    known = {found.name for found in dataclasses.fields(Options)}
    return {key: value for key, value in options.items() if key in known}


def rerun_command(command: str, store: str, array: str, index: int, plan: str, options: Mapping[str, Any]) -> str:
    """What a person types. command: how Python is called with the code of the sweep, as a shell writes it."""
    told = json.dumps(worker_options(options))
    words = ["-m", "orchestrator.backends.slurm.rerun", store, array, str(index), plan, told]
    return f"{command} {shlex.join(words)}"
