"""The page in a real browser: it opens from disk without a complaint, shows its answer and figures, and follows the
theme and the width of the screen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.comparisons import compare
from orchestrator.report.write import write_report
from tests.orchestrator.synthetic import MEASURED, made

pytestmark = pytest.mark.outside

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

if os.environ.get("CI") != "true":  # in CI what is missing is a failure
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    results, store = made(folder / "made", MEASURED)
    return write_report(results, compare(results, store), store, folder / "report", "nagbench report made.yaml")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Opened:
    """A page, and all it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def style(self, selector: str, name: str) -> str:
        return str(self.page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}"))


def test_opens_from_disk_and_shows_its_answer_and_figures(browser: Any, page_path: Path) -> None:
    opened = Opened(browser, page_path)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert opened.page.title() == "made: nagbench report"
    first = opened.page.locator(".headline")
    assert "is better than cfg 1.25 euler 25 steps: Fréchet distance (digits)" in first.inner_text()
    assert first.bounding_box()["y"] < 200  # before anything else
    figures = opened.page.locator("figure svg")
    assert figures.count() == len(list((page_path.parent / "figures").glob("*.svg"))) >= 9
    for place in range(figures.count()):
        box = figures.nth(place).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    grid = opened.page.locator("#samples svg image")
    assert grid.count() == 5 * 10  # a row of real images, and four arms
    assert grid.first.bounding_box()["width"] > 20


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1900, 950)])
def test_the_verdict_is_on_the_first_screen(browser: Any, page_path: Path, width: int, height: int) -> None:
    """The headline, what was compared and the matrix of differences, beside the figure of all differences."""
    page = Opened(browser, page_path, width).page
    assert "digits · network sit · N = 1,000 samples a cell · 3 training seeds" in page.locator(".facts").inner_text()
    matrix = page.locator("#verdict table").first
    box, figure = matrix.bounding_box(), page.locator("#fig-differences").bounding_box()
    assert matrix.locator("tbody tr").count() == 3
    assert box["y"] + box["height"] < height
    assert figure["x"] >= box["x"] + box["width"]
    assert figure["y"] < box["y"] + box["height"]


def test_figures_name_their_arms_inside_the_figure(browser: Any, page_path: Path) -> None:
    """Labels at the lines: visible text, within the picture."""
    opened = Opened(browser, page_path)
    for name in ("fid_scale", "fid_calls", "noise_shift"):
        svg = opened.page.locator(f"#fig-{name} svg")
        frame = svg.bounding_box()
        for arm in ("plain", "cfg", "nag"):
            text = svg.locator("text", has_text=arm).first
            box = text.bounding_box()
            assert box["x"] >= frame["x"] - 1, (name, arm)
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1, (name, arm)


def test_dark_is_another_page(browser: Any, page_path: Path) -> None:
    light, dark = (Opened(browser, page_path, scheme=scheme) for scheme in ("light", "dark"))
    for selector, name in (("body", "backgroundColor"), ("body", "color"), ("figcaption", "color")):
        assert light.style(selector, name) != dark.style(selector, name)
    axis = "#fig-fid_scale svg text"
    assert light.style(axis, "fill") != dark.style(axis, "fill")
    luminance = "(([r, g, b]) => r + g + b)(getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))"
    assert dark.page.evaluate(luminance) < 200 < light.page.evaluate(luminance)


def test_paper_is_light_even_in_a_dark_theme(browser: Any, page_path: Path) -> None:
    opened = Opened(browser, page_path, scheme="dark")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert opened.page.pdf(format="A4").startswith(b"%PDF")


def test_paper_cuts_nothing(browser: Any, page_path: Path) -> None:
    """At the width of A4 within its margins."""
    page = Opened(browser, page_path, width=695).page
    page.emulate_media(media="print")
    beyond = (
        "every => every.filter(one => one.getBoundingClientRect().right > 696).map(one => one.outerHTML.slice(0, 90))"
    )
    assert page.eval_on_selector_all("table, svg, pre, p, li", beyond) == []


def test_fits_a_phone(browser: Any, page_path: Path) -> None:
    """The page itself never scrolls sideways; wide tables and figures do, inside their frame."""
    opened = Opened(browser, page_path, width=390)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.page.locator(".headline").bounding_box()["width"] <= 390
    scrolls = "Array.from(document.querySelectorAll('.scroll')).some(box => box.scrollWidth > box.clientWidth + 1)"
    assert opened.page.evaluate(scrolls)
    assert not opened.page.locator("#verdict .words .scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")
    size = opened.page.eval_on_selector("#precision_recall svg text", "text => text.getBoundingClientRect().height")
    assert size >= 7  # pixels
