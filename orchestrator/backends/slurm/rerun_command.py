"""The command line that runs an array task by hand."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

from orchestrator.tasks.context import Options


def worker_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an array task that belong to orchestrator.tasks.context.Options."""
    known = {field.name for field in dataclasses.fields(Options)}
    return {key: value for key, value in options.items() if key in known}


def rerun_command(command: str, store: str, array: str, index: int, plan: str, options: Mapping[str, Any]) -> str:
    """What a person types. command: the shell words that call Python with the code of the sweep."""
    arguments = [store, array, str(index), plan, json.dumps(worker_options(options))]
    return f"{command} {shlex.join(['-m', 'orchestrator.backends.slurm.rerun', *arguments])}"
