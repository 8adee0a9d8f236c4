"""`nagbench ui`: a sweep in MLflow's web page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from orchestrator.commands import interrupts
from orchestrator.commands.app import command, err, open_store, out, report_pages, stored_plan
from orchestrator.commands.options import NamedSweep, SetOption, SmokeOption, StoreOption, TrackingOption
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def ui(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The first port to try, on 127.0.0.1.")] = 5000,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
) -> None:
    """Serve MLflow's page for this sweep on 127.0.0.1, until Ctrl-C."""
    from orchestrator.report.results import collect
    from orchestrator.tracking.sync import NONE, check_address, sync
    from orchestrator.tracking.ui import ui as serve

    check_address(tracking)
    if tracking == NONE:
        raise BadInput("--tracking none: there is nothing to show. Name a database or a server.")
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, overrides=overrides)
    with err.status("Starting MLflow..."):
        sync(collect(plan, opened), tracking, opened, report_pages(plan, opened))
        server = contextlib.ExitStack()
        served = server.enter_context(serve(plan.sweep.name, tracking, port))
    with server, _until_interrupted():
        if served.moved:
            err.print(f"Port {port} is in use; using {served.port}.")
        out.print(
            f"charts: {served.link}\ntable:  {served.table}\nPress Ctrl-C to end it.", markup=False, soft_wrap=True
        )
        served.wait()


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """Here Ctrl-C is the normal end, not an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        interrupts.obeyed()
