"""`nagbench report`: the comparison of the arms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.app import (
    command,
    compare_and_report,
    open_store,
    out,
    print_json,
    report_folder,
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
from orchestrator.errors import BadInput
from orchestrator.notebook import DEFAULT_STORE
from orchestrator.tracking.address import DEFAULT_URI as DEFAULT_TRACKING

if TYPE_CHECKING:
    from orchestrator.plan.model import StoredPlan
    from orchestrator.store.store import Store

LatexOption = Annotated[
    bool, typer.Option("--latex", help="Also write report.tex, a document with the tables and figures.")
]
PdfOption = Annotated[bool, typer.Option("--pdf", help="Also compile report.tex to report.pdf; needs pdflatex.")]


@command
def report(
    sweep: NamedSweep,
    store: StoreOption = DEFAULT_STORE,
    tracking: TrackingOption = DEFAULT_TRACKING,
    arm: ArmOption = None,
    smoke: SmokeOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    latex: LatexOption = False,
    pdf: PdfOption = False,
) -> int:
    """Compare the finished cells, and list those that are missing or failed."""
    from orchestrator.report.document import document
    from orchestrator.report.results import collect
    from orchestrator.tracking.sync import check_address as check_tracking

    check_tracking(tracking)
    opened = open_store(store)
    plan = stored_plan(sweep, opened, smoke, arm, overrides=overrides)
    if as_json and (latex or pdf):
        raise BadInput("--latex and --pdf write files beside the report, and --json writes none. Leave one out.")
    if not as_json:
        code = compare_and_report(plan, opened, store, tracking)
        if latex or pdf:
            _paper(plan, opened, pdf)
        return code
    results = collect(plan, opened)
    track(results, opened, tracking, report_pages(plan, opened))
    print_json(document(results, opened))
    return 0 if results.complete else 1


def _paper(plan: StoredPlan, opened: Store, pdf: bool) -> None:
    from orchestrator.report.comparisons import compare
    from orchestrator.report.paper import write_paper
    from orchestrator.report.results import collect

    results, words = collect(plan, opened), f"nagbench report {plan.sweep.path}"
    for path in write_paper(results, compare(results, opened), opened, report_folder(plan, opened), words, pdf):
        out.print(f"Paper: {path}", markup=False, soft_wrap=True)
