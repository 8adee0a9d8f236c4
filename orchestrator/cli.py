"""Entry point of the `nagbench` command. Each command is a file of orchestrator/commands."""

from __future__ import annotations

import gc
import importlib
import sys

COMMANDS = (  # in the order of --help
    *("check", "plan", "status", "run", "report", "compare", "logs", "ui", "init", "doctor"),
    *("submit", "cancel", "efficiency", "du", "gc", "export", "fetch", "score"),
)


def main() -> None:
    from orchestrator.commands import interrupts

    gc.set_threshold(100_000, 50, 50)  # a plan is 10^6 objects that stay: looking for cycles more often costs a fifth
    interrupts.install()  # before the imports below, which take the first half second
    from orchestrator.commands.outermost import guard

    sys.exit(guard(_commands))


def _commands() -> int | None:
    from orchestrator.commands.app import app

    for name in COMMANDS:
        importlib.import_module(f"orchestrator.commands.{name}")

    code: int | None = app(args=sys.argv[1:] or ["--help"], prog_name="nagbench", standalone_mode=False)
    return code


if __name__ == "__main__":
    main()
