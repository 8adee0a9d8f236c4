"""LaTeX tables and figures compile, are as wide as a paper's column, and have their fonts embedded."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.report.comparisons import Comparison, compare
from orchestrator.report.figures import fonts
from orchestrator.report.figures.drawing import Drawing, pdf_file, styled
from orchestrator.report.paper import write_paper
from orchestrator.report.results import Results
from orchestrator.report.write import write_report
from orchestrator.store.store import Store
from tests.orchestrator.synthetic import MEASURED, made

COMMAND = "nagbench report made"
COLUMN, PAGE = 3.25 * 72, 6.75 * 72  # points

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None and os.environ.get("CI") != "true",
    reason="pdflatex is not installed: apt-get install texlive-latex-recommended",
)


Written = tuple[Results, list[Comparison], Store, Path]  # with the folder of the report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("paper")
    results, store = made(path / "made", MEASURED)
    odd = dataclasses.replace(results.plan.sweep, name="a_b & 50% ≈ < 模")
    results.plan = dataclasses.replace(results.plan, sweep=odd)
    comparisons = compare(results, store)
    write_report(results, comparisons, store, path / "report", COMMAND)
    return results, comparisons, store, path / "report"


@pytest.mark.outside
@needs_latex
def test_tables_and_figures_compile(written: Written) -> None:
    results, comparisons, store, folder = written
    write_paper(results, comparisons, store, folder, COMMAND, pdf=True)
    text = (folder / "report.tex").read_text()
    figures = sorted(path.stem for path in (folder / "figures").glob("*.pdf"))
    assert sorted(re.findall(r"\\includegraphics\{figures/(\w+)\.pdf\}", text)) == figures
    assert r"a\_b \& 50\% $\approx$ $<$ ?" in text
    pdf = (folder / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    assert not [path.name for path in folder.iterdir() if path.suffix in (".aux", ".log")]


@pytest.mark.outside
@needs_latex
def test_what_latex_refuses_is_one_sentence(tmp_path: Path) -> None:
    from orchestrator.report.paper import compiled

    tex = tmp_path / "report.tex"
    tex.write_text("\\documentclass{article}\\begin{document}\\nothing\\end{document}\n")
    with pytest.raises(EnvironmentProblem) as raised:
        compiled(tex)
    assert str(raised.value) == f"pdflatex cannot compile {tex}: Undefined control sequence."
    assert not tex.with_suffix(".pdf").exists()


def test_without_pdflatex_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, store = made(tmp_path / "made", samples=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem) as raised:
        write_paper(results, compare(results, store), store, tmp_path, COMMAND, pdf=True)
    assert str(raised.value) == (
        "--pdf needs pdflatex, which is not installed (Debian: apt-get install texlive-latex-recommended). "
        f"--latex alone writes {tmp_path / 'report.tex'}."
    )


def test_figures_fit_a_paper_and_embed_their_fonts(written: Written) -> None:
    """Column or page width, in both forms; TrueType (42), never Type 3."""
    paths = sorted((written[3] / "figures").glob("*.pdf"))
    assert len(paths) >= 9
    for path in paths:
        data = path.read_bytes()
        svg = path.with_suffix(".svg").read_text()
        width = float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", data)[1])  # type: ignore[index]
        assert min(abs(width - COLUMN), abs(width - PAGE)) < 0.1, path.name
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) == pytest.approx(width, abs=0.1)  # type: ignore[index]
        streams = [zlib.decompress(part) for part in _compressed(data)]
        whole = data + b"".join(streams)
        assert b"/FontFile2" in whole, path.name
        assert b"/Type3" not in whole, path.name


@pytest.fixture
def font_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of an empty one, in a process that knows no font of ours yet."""
    from matplotlib.font_manager import fontManager

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name != fonts.FEW])
    fontManager._findfont_cached.cache_clear()
    fonts._register.cache_clear()
    yield tmp_path / "cache"
    fontManager._findfont_cached.cache_clear()
    fonts._register.cache_clear()


def embedded(text: str) -> tuple[set[str], float]:
    """The fonts in the PDF of a figure with this text, and how wide the text is in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure()
        shown = figure.text(0.1, 0.1, text)
        width = shown.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width
    data = pdf_file(Drawing("one", "", "", "", figure))
    whole = data + b"".join(zlib.decompress(part) for part in _compressed(data))
    return {name.decode() for name in re.findall(rb"/BaseFont /[A-Z]{6}\+(\S+)", whole)}, width


@pytest.mark.filterwarnings("error")
def test_a_few_letters_are_kept_and_the_others_are_of_the_whole_font(font_cache: Path) -> None:
    text = "AVATAR To, FD ± 0.5 ≤ λ → ×"
    few, width = embedded(text)
    assert few == {"DejaVuSansLatin"}
    assert embedded("Шум")[0] == {"DejaVuSans"}
    shutil.rmtree(font_cache)
    assert embedded(text) == (few, width), "made again"


def test_a_home_that_cannot_be_written_changes_no_byte(font_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    font_cache.write_text("in the place of the folder")
    assert embedded("FD")[0] == {"DejaVuSansLatin"}
    monkeypatch.setattr(fonts, "_temporary", lambda: SimpleNamespace(name=str(font_cache)))
    assert embedded("FD")[0] == {"DejaVuSans"}, "nothing can be written"

    def nowhere() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(fonts, "_temporary", nowhere)
    assert embedded("FD")[0] == {"DejaVuSans"}


def _compressed(data: bytes) -> list[bytes]:
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    return [part for part in found if part[:1] == b"\x78"]
