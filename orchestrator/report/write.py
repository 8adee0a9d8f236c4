"""A report as files: report.html, report.md, cells.csv and figures/*.svg, each whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import EnvironmentProblem
from orchestrator.report import html, markdown
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.comparisons import Comparison
from orchestrator.report.content import content
from orchestrator.report.figures.drawing import svg_file
from orchestrator.report.figures.every import colours_of
from orchestrator.report.results import Results
from orchestrator.store import Store


def write_report(results: Results, comparisons: Sequence[Comparison], store: Store, folder: Path, command: str) -> Path:
    """Write or replace the report of a sweep; the path of its page. `command` is what repeats it.

    Raises EnvironmentProblem where the folder cannot be written.
    """
    found = content(results, comparisons, store, command)
    files = {f"figures/{drawing.name}.svg": svg_file(drawing) for drawing in found.drawings}
    files["cells.csv"] = cells_csv(results)
    files["report.md"] = markdown.text(found)
    files["report.html"] = html.page(found, colours_of(results))
    try:
        for name, text in files.items():
            _replace(folder / name, text)
        for old in (folder / "figures").glob("*.svg"):  # of an earlier report that had more to show
            if f"figures/{old.name}" not in files:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"report {folder}: {error.strerror}: {error.filename}") from error
    return folder / "report.html"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
