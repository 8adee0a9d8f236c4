"""Figures show what they are given, in colours that can be read, and leave matplotlib as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.report.comparisons import compare
from orchestrator.report.estimates import chosen
from orchestrator.report.figures.colours import DARK, LIGHT, Colours, contrast, readable
from orchestrator.report.figures.curves import panels_of
from orchestrator.report.figures.drawing import png
from orchestrator.report.figures.every import draw_all
from orchestrator.report.figures.samples import picture
from orchestrator.report.figures.shift import kernel_density
from orchestrator.report.formatting import difference_text
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import previews
from tests.orchestrator.synthetic import SWEEP, made

ONE_SEED = SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0")


def test_matplotlib_is_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    results, store = made(tmp_path / "made", ONE_SEED)
    drawings, _ = draw_all(results, compare(results, store), store)
    assert png(drawings[0]).startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


def test_samples_in_a_column_share_noise_and_class(tmp_path: Path) -> None:
    """The grid is what the store holds, and a store without samples says so."""
    from orchestrator.report.figures import samples

    results, store = made(tmp_path / "made", ONE_SEED)
    rows, notes = samples.rows(results, chosen(results), store)
    assert [row.arm for row in rows] == ["plain", "cfg", "nag", "cfg_nag"]
    assert not notes
    assert len({row.source for row in rows}) == 1
    kept, _ = unpack(store.read(block_name(results.plan.cells[0].stream, 0)))
    np.testing.assert_array_equal(rows[0].samples, kept["samples"][:64])
    nothing = Store(str(tmp_path / "nothing"))
    rows, notes = samples.rows(results, chosen(results), nothing)
    assert (rows, notes) == ([], ["plain, cfg, nag and cfg_nag: no samples in the store"])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 100, 60), (3, 256, 256), (1, 300, 300)])
def test_pictures_keep_their_shape_and_values(shape: tuple[int, int, int]) -> None:
    sample = np.full(shape, 200, dtype=np.uint8)
    sample[:, : shape[1] // 2] = 10
    shown = picture(previews.smaller(sample[None])[0])
    assert shown.dtype == np.uint8
    assert 60 <= max(shown.shape[:2]) <= 128
    assert shown.shape[0] / shown.shape[1] == pytest.approx(shape[1] / shape[2], rel=0.05)
    assert (shown[0] == 10).all()
    assert (shown[-1] == 200).all()


def test_curves_run_along_the_scale_that_varies(tmp_path: Path) -> None:
    two = SWEEP.replace(
        "cfg_nag: {cfg: {scale: 1.25}, nag: {scale: 1.0}, against: cfg}",
        "cfg_nag: {cfg: {scale: {grid: [1.25, 1.5]}}, nag: {scale: {grid: [0.5, 1.0, 2.0]}}, against: cfg}",
    )
    results, _ = made(tmp_path, two, samples=False)
    (panel,) = panels_of(results, "fid")
    curves = {curve.name: (curve.scale, [point.x for point in curve.points]) for curve in panel.curves}
    assert curves == {
        "plain": (None, [None]),
        "cfg": ("cfg.scale", [1.25, 1.5, 2.0]),
        "nag": ("nag.scale", [0.5, 1.0, 2.0, 3.0]),
        "cfg_nag cfg 1.25": ("nag.scale", [0.5, 1.0, 2.0]),
        "cfg_nag cfg 1.5": ("nag.scale", [0.5, 1.0, 2.0]),
    }
    (panel,) = panels_of(made(tmp_path / "one", samples=False)[0], "fid")
    assert [(curve.scale, len(curve.points)) for curve in panel.curves if curve.arm == "cfg_nag"] == [("nag.scale", 1)]


def test_density_integrates_to_one() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.05, 400)
    grid = np.linspace(0, 0.6, 600)
    density = kernel_density(values, grid)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.01)
    assert grid[density.argmax()] == pytest.approx(0.3, abs=0.02)
    assert np.isfinite(kernel_density(np.full(400, 0.3), grid)).all()


@pytest.mark.parametrize(("paper", "theme"), [(LIGHT["paper"], LIGHT), (DARK["paper"], DARK)], ids=["light", "dark"])
def test_text_can_be_read_in_every_colour(paper: str, theme: dict[str, str]) -> None:
    arms = Colours(tuple(f"arm{place}" for place in range(24)))
    for arm in arms.arms:
        assert contrast(readable(arms.mark(arm), paper), paper) >= 4.5
    assert contrast(theme["ink"], paper) >= 7
    assert contrast(theme["muted"], paper) >= 4.5


def test_arms_keep_their_colour_in_a_part_of_a_sweep(tmp_path: Path) -> None:
    """One colour an arm, by its place in the sweep, whatever cells a report has."""
    results, store = made(tmp_path / "made", scored=lambda place: place > 11)
    drawings, _ = draw_all(results, compare(results, store), store)
    colours = Colours(tuple(arm.name for arm in results.plan.sweep.arms)).mark
    assert len({colours(arm.name) for arm in results.plan.sweep.arms}) == 4
    scale = next(drawing for drawing in drawings if drawing.name == "fid_scale")
    lines = {line.get_color() for line in scale.figure.axes[0].get_lines()}
    assert colours("nag") in lines
    assert colours("cfg") not in lines


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (-1.8493, -2.644, -1.054, "−1.85 [−2.64, −1.05]"),
        (0.0278, -0.0587, 0.1143, "+0.028 [−0.059, +0.114]"),
        (-0.0113, -0.0149, -0.0078, "−0.0113 [−0.0149, −0.0078]"),
        (12.3, 2.0, 22.6, "+12.3 [+2.0, +22.6]"),
        (-0.0001, -1.2, 1.2, "+0.0 [−1.2, +1.2]"),
        (0.0, 0.0, 0.0, "+0.00 [+0.00, +0.00]"),
        (-0.5, None, None, "−0.500"),
    ],
)
def test_a_difference_has_the_digits_its_interval_bears(
    value: float, low: float | None, high: float | None, words: str
) -> None:
    assert difference_text(value, low, high) == words
