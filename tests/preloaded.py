"""Imports all that a command may need, but for the commands themselves: their consoles look at the environment as they
are imported. Importing a file of ours costs little (test_architecture.py), but each forked command would do it anew.
So it is with the digits, on which most tests train.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil

gc.disable()

import nag.datasets.digits  # noqa: E402
import orchestrator  # noqa: E402

OTHERS = (
    *("torch._dynamo", "torch.nn.parallel", "safetensors.torch", "scipy.stats", "matplotlib.pyplot"),
    *("matplotlib.backends.backend_svg", "PIL.PngImagePlugin"),
    *("typer", "rich.progress", "rich._emoji_codes", "pydantic", "yaml", "fsspec", "sqlite3"),
)
COMMANDS = ("orchestrator.commands", "orchestrator.cli")

for _name in OTHERS:
    importlib.import_module(_name)
for _package in (nag, orchestrator):
    for _found in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}.", onerror=lambda _: None):
        if not _found.name.startswith(COMMANDS):
            importlib.import_module(_found.name)

nag.datasets.digits.Digits().open("train")

gc.freeze()  # else a process's first collection looks at, and so copies, all that the server has
gc.enable()
