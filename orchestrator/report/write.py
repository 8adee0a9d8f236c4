"""Write a report: report.html, report.md, tables.tex, cells.csv, figures as SVG and PDF, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nag.whole_file import whole_file
from orchestrator.errors import file_errors
from orchestrator.identity import digest
from orchestrator.report import html, latex, markdown
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.comparisons import Comparison
from orchestrator.report.results import Results
from orchestrator.store.store import Store

VERSION = 6  # of the pages; raise it when the same results would look different


def write_report(results: Results, comparisons: Sequence[Comparison], store: Store, folder: Path, command: str) -> Path:
    """Write the report of a sweep, and return the path of its page. `command` repeats it.

    A report that is up to date stays as it is. Raises EnvironmentProblem if the folder cannot be written.
    """
    page, mark = folder / "report.html", f"<!-- state {_state(results, comparisons, command)} -->\n"
    if _shows(page, mark):
        return page
    from orchestrator.report.content import report_content
    from orchestrator.report.figures.drawing import pdf_file, svg_file
    from orchestrator.report.figures.every import colours_of

    report = report_content(results, comparisons, store, command)
    files: dict[str, str | bytes] = {f"figures/{drawing.name}.svg": svg_file(drawing) for drawing in report.drawings}
    files |= {f"figures/{drawing.name}.pdf": pdf_file(drawing) for drawing in report.drawings}
    files["cells.csv"] = cells_csv(results)
    files["tables.tex"] = latex.text(report.sweep, report.tables)
    files["report.md"] = markdown.text(report)
    files["report.html"] = html.page(report, colours_of(results)) + mark  # last: with it the report is complete
    with file_errors(f"report {folder} cannot be written"):
        for name, text in files.items():
            _replace(folder / name, text)
        for old in (folder / "figures").glob("*.*"):  # of an earlier report with more figures
            if old.suffix in (".svg", ".pdf") and f"figures/{old.name}" not in files:
                old.unlink(missing_ok=True)
    return page


def _state(results: Results, comparisons: Sequence[Comparison], command: str) -> str:
    """A digest of everything that a report shows."""
    cells = [{**vars(cell), "params": dict(cell.params)} for cell in results.cells]
    rows = [row.as_json() for row in comparisons]
    paper = results.plan.sweep.paper
    published = asdict(paper) if paper else None
    chosen = [asdict(choice) for choice in results.choices]
    return digest([VERSION, results.plan.sweep.text, command, cells, rows, results.floor, published, chosen])


def _shows(page: Path, mark: str) -> bool:
    try:
        with page.open("rb") as file:
            file.seek(-len(mark), os.SEEK_END)
            return file.read().decode() == mark
    except (OSError, UnicodeDecodeError):
        return False


def _replace(path: Path, content: str | bytes) -> None:
    with whole_file(path) as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            temporary.write_text(content, encoding="utf-8")
