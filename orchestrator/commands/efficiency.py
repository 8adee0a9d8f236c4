"""`nagbench efficiency`: what a sweep requested from Slurm, and what it used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.commands.app import command, open_store, out, print_json, stored_plan
from orchestrator.commands.options import JsonOption, NamedSweep, SetOption, SmokeOption, StoreOption
from orchestrator.notebook import DEFAULT_STORE

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.backends.slurm.efficiency import Use


@command
def efficiency(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep requested from Slurm and what it used, and suggest lines for the site file."""
    from orchestrator.backends.slurm.efficiency import efficiency as measured

    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, hashes=False, overrides=overrides)
    found = measured(plan, opened)
    if as_json:
        uses = [use.as_json() for use in found.uses]
        print_json({"sweep": plan.sweep.name, "stages": uses, "site": found.lines, "unknown": found.unknown or None})
        return
    if not found.uses:
        out.print(f"{plan.sweep.name} was not submitted to Slurm from this store.", markup=False, soft_wrap=True)
        return
    out.print(_table(found.uses))
    if found.unknown:
        out.print(f"Without sacct: {found.unknown}", markup=False, soft_wrap=True)
    if found.lines:
        out.print("These lines of a site file would have been right:")
        for line in found.lines:
            out.print(line, markup=False, soft_wrap=True)


def _table(uses: tuple[Use, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("stage", "network", "tasks", "minutes", "memory GB", "CPUs", "GPU busy", "GPU GB"):
        table.add_column(name, justify="left" if name in ("stage", "network") else "right", no_wrap=True)
    for use in uses:
        requested, used = use.requested, use.used
        table.add_row(
            use.stage,
            use.network,
            f"{use.array_tasks:,}",
            _of(used.minutes, requested.minutes),
            _of(used.host_gb, requested.memory_gb),
            _of(used.cpus, requested.cpus),
            "" if used.gpu_busy is None else f"{used.gpu_busy:.0%}",
            _of(used.gpu_gb, used.gpu_has_gb),
        )
    return table


def _of(used: float | None, requested: float | None) -> str:
    """`1.2 of 16`; `? of 16` if it was not measured."""
    known = "?" if used is None else f"{used:.1f}"
    return "" if requested is None else f"{known} of {requested:g}"
