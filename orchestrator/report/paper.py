r"""report.tex and report.pdf: tables and figures of a report as a LaTeX document, to take from or to print."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nag.whole_file import whole_file
from orchestrator.errors import EnvironmentProblem, file_errors
from orchestrator.report import latex
from orchestrator.report.comparisons import Comparison
from orchestrator.report.content import Content
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.results import Results
from orchestrator.store.store import Store

TIMEOUT_S = 180
HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper, margin=2cm]{geometry}
\usepackage{array, booktabs, graphicx}
"""


def write_paper(
    results: Results, comparisons: Sequence[Comparison], store: Store, folder: Path, command: str, pdf: bool
) -> list[Path]:
    """Write report.tex beside the tables and figures of a written report and, with `pdf`, compile it to report.pdf.
    Returns their paths.

    Raises EnvironmentProblem if pdflatex is missing or fails, or if the folder cannot be written.
    """
    from orchestrator.report.content import report_content

    tex = folder / "report.tex"
    if pdf and shutil.which("pdflatex") is None:
        raise EnvironmentProblem(
            f"--pdf needs pdflatex, which is not installed (Debian: apt-get install texlive-latex-recommended). "
            f"--latex alone writes {tex}."
        )
    with file_errors(f"report {folder} cannot be written"), whole_file(tex) as temporary:
        temporary.write_text(text(report_content(results, comparisons, store, command)), encoding="utf-8")
    return [tex, compiled(tex)] if pdf else [tex]


def text(content: Content) -> str:
    plain = latex.plain
    lines = [HEAD + r"\begin{document}", rf"\section*{{{plain(content.sweep)}}}", plain(content.facts)]
    lines += [rf"\textbf{{{plain(notice)}}}" for notice in content.notices]
    lines += [rf"\medskip\textbf{{{plain(content.headline)}}}"] if content.headline else []
    lines += [r"\input{tables.tex}", r"\clearpage", *map(_figure, content.drawings), r"\end{document}"]
    return "\n\n".join(lines) + "\n"


def _figure(drawing: Drawing) -> str:
    return "\n".join(
        [
            r"\begin{figure}[htbp]",
            r"\centering",
            rf"\includegraphics{{figures/{drawing.name}.pdf}}",
            rf"\caption{{{latex.plain(drawing.caption)}}}",
            r"\end{figure}",
        ]
    )


def compiled(tex: Path) -> Path:
    """The PDF of a LaTeX file, beside it. Raises EnvironmentProblem with LaTeX's first error."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error"]
        try:
            done = subprocess.run(
                [*command, f"-output-directory={folder}", tex.name],
                cwd=tex.parent,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(f"pdflatex did not end on {tex} within {TIMEOUT_S} s.") from None
        if done.returncode:
            error = next((line for line in done.stdout.splitlines() if line.startswith("!")), "no error was named")
            raise EnvironmentProblem(f"pdflatex cannot compile {tex}: {error.removeprefix('! ')}")
        target = tex.with_suffix(".pdf")
        with file_errors(f"{target} cannot be written"), whole_file(target) as temporary:
            shutil.copyfile(Path(folder) / target.name, temporary)
    return target
