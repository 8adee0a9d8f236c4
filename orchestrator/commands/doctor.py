"""`nagbench doctor`: what this machine, or a site, lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command, err, open_store, out, print_json, read_plan
from orchestrator.commands.options import JsonOption, SiteOption, StoreOption, TrackingOption, absolute
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def doctor(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP.yaml]", help="Check this sweep as well.")] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    as_json: JsonOption = False,
    site: SiteOption = None,
) -> int:
    """Say what this machine has, or with --site what a cluster can do, what is missing, and the fix."""
    from orchestrator.backends.site import read_site
    from orchestrator.commands import doctor_machine as machine
    from orchestrator.commands import doctor_site as site_doctor

    found = read_plan(sweep) if sweep else None
    place = read_site(site) if site else None
    if place and place.kind != "local":
        with err.status("Asking the cluster..."):
            rows = list(site_doctor.look(place, open_store(absolute(store)), found))
    else:
        with err.status("Looking at this machine..."):
            rows = machine.doctor(store, tracking, machine.missing_weights(found) if found else ())
    print_json(machine.as_json(rows)) if as_json else out.print(machine.table(rows))
    return machine.exit_code(rows)
