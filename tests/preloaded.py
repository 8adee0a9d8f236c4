"""Imports all that a command may need, but for the commands themselves: their consoles look at the environment as they
are imported. Importing a file of ours costs little (test_architecture.py), but each forked command would do it anew.
So it is with the digits, on which most tests train.
"""

from __future__ import annotations

import importlib
import pkgutil

import nag.datasets.digits
import orchestrator

COMMANDS = ("orchestrator.commands", "orchestrator.cli")

for _package in (nag, orchestrator):
    for _found in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}.", onerror=lambda _: None):
        if not _found.name.startswith(COMMANDS):
            importlib.import_module(_found.name)

nag.datasets.digits.Digits().open("train")
