"""`nagbench check`: is the sweep valid?"""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, out, print_json, say
from orchestrator.commands.options import JsonOption, SetOption, SiteOption, SmokeOption, SweepArgument


@command
def check(
    sweep: SweepArgument,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also open data and weights and import the sweep's own code.")
    ] = False,
    site: SiteOption = None,
) -> None:
    """Check a sweep for mistakes. Nothing is run or written."""
    from orchestrator.plan.availability import absent
    from orchestrator.plan.make import plan as _planned
    from orchestrator.report.forewarnings import forewarnings
    from orchestrator.report.progress import shape, to_choose
    from orchestrator.report.races import too_few_at_first
    from orchestrator.spec.data_notes import told
    from orchestrator.spec.deep_check import check_inputs
    from orchestrator.spec.model import networks_of
    from orchestrator.spec.reader import read_sweep

    spec = read_sweep(sweep, smoke=smoke, run_user_code=deep, overrides=overrides or ())
    layouts = {n.name: n.layout for n in networks_of(spec.cells, spec.estimator) if n.layout}
    lines = [f"networks.{name}.checkpoint: {layout}" for name, layout in layouts.items()]
    lines += check_inputs(spec) if deep else []
    planned = _planned(spec, hashes=deep) if deep or not spec.code else None
    if site and planned:
        from orchestrator.backends.campaign import check_batches
        from orchestrator.backends.site import read_site

        check_batches(planned, read_site(site))
    elsewhere = absent(planned) if planned else []
    notes, classes = told(spec)
    warnings = [] if smoke else [*forewarnings(spec), *(too_few_at_first(planned) if planned else [])]
    if as_json:
        chosen, candidates = to_choose(planned) if planned else (0, 0)
        cells = len(planned.cells) + chosen if planned else len(spec.cells)
        known = {"sweep": spec.name, "arms": len(spec.arms), "cells": cells, "absent": elsewhere}
        known |= {"checkpoints": layouts} if layouts else {}
        known |= {"notes": notes, "classes": classes, "overrides": list(spec.overrides), "warnings": warnings}
        print_json(known | ({"candidates": candidates} if candidates else {}))
        return
    for line in (*notes, *lines, *(f"not on this machine: {line}" for line in elsewhere)):
        out.print(line, markup=False, soft_wrap=True)
    for line in warnings:
        say(f"warning: {line}", "yellow")
    words = shape(planned) if planned else "Its own code was read, not imported; --deep imports it."
    out.print(f"{sweep}: good. {words}", markup=False, soft_wrap=True)
