"""`nagbench report`: the comparison of the arms."""

from __future__ import annotations

from orchestrator.commands.app import (
    command,
    compare_and_report,
    open_store,
    print_json,
    report_pages,
    stored_plan,
    track,
)
from orchestrator.commands.options import (
    ArmOption,
    JsonOption,
    NamedSweep,
    SetOption,
    SmokeOption,
    StoreOption,
    TrackingOption,
)
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING


@command
def report(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare the finished cells, and list those that are missing or failed."""
    from orchestrator.report.document import document
    from orchestrator.report.results import collect
    from orchestrator.tracking.sync import check_address as check_tracking

    check_tracking(tracking)
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, arm, overrides=overrides)
    if not as_json:
        return compare_and_report(plan, opened, store, tracking)
    results = collect(plan, opened)
    track(results, opened, tracking, report_pages(plan, opened))
    print_json(document(results, opened))
    return 0 if results.complete else 1
