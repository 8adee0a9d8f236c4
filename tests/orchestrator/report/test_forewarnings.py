"""`check` warns, with numbers, of comparisons that cannot be made or will hardly decide anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.report.forewarnings import forewarnings
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import nagbench, run_here

Write = Callable[..., Path]
ENOUGH = ("count: 40", "count: 160", "{grid: [0, 1]}", "{grid: [0, 1, 2]}")
INCEPTION = "{name: inception, mode: legacy_pytorch}"


def warned(path: Path) -> list[str]:
    return [line.replace(f"{path}:", "") for line in forewarnings(read_sweep(path))]


def test_a_sweep_that_can_decide_is_not_warned_of(write: Write) -> None:
    assert warned(write(*ENOUGH)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ("  cfg: {cfg: {scale: 1.5}}", "  cfg: {cfg: {scale: 1.5}}\n  two: {cfg: {scale: 2}, against: cfg}"),
            "14: arms.two: this arm cannot be compared with cfg: cfg.scale is 2, and cfg has 1.5. Give both the same "
            "values, or name another arm in against. Known: plain, nag, cfg.",
        ),
        (
            (
                "  cfg: {cfg: {scale: 1.5}}",
                "  both: {nag: {scale: {grid: [2.0, 3.0, 4.0]}}, cfg: {scale: 2}, against: nag}",
            ),
            "13: arms.both: 2 of 3 settings of this arm cannot be compared with nag: nag.scale is 3 and 4, and "
            "nag has 1 and 2.",
        ),
        (
            (
                "sampler:",
                "  other: {init: sit, train: {steps: 2, batch: 16, seed: {grid: [7, 8]}}}\nnetwork: sit\nsampler:",
                "  cfg: {cfg: {scale: 1.5}}",
                "  cfg: {cfg: {scale: 1.5}, network: other}",
            ),
            "it is paired with plain by training seed and they share none",
        ),
        (
            ("{grid: [0, 1, 2]}", "{grid: [0, 1]}"),
            "2 training seeds (nag and cfg): a 95 % interval of a difference is t = 12.7",
        ),
        (
            ("features: [pixels,", f"features: [pixels, {INCEPTION},", "count: 160", "count: 1000"),
            "score.features: inception: 1,000 samples of each cell and 2,048 dimensions: below 27,805 samples the "
            "intervals of differences in fid cover less than 95 %; there are fewer samples than dimensions",
        ),
        (
            ("  cfg: {cfg: {scale: 1.5}}", "  cfg: {cfg: {scale: 1.5}}\n  one: {nag: {scale: 2}, against: cfg}"),
            "14: arms.one: it is compared with cfg at scales that are neither tuned nor matched "
            "(nag.scale 2; cfg.scale 1.5)",
        ),
    ],
)
def test_what_is_warned_of(write: Write, changes: tuple[str, ...], words: str) -> None:
    path = write(*ENOUGH)
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    assert [line for line in warned(path) if words in line], warned(path)


def test_scales_that_are_tuned_matched_or_shared_are_fair(write: Write) -> None:
    arms = """\
  both: {nag: {scale: 1.0}, cfg: {scale: 1.5}, against: cfg}
  tuned: {nag: {scale: {tune: [1, 2]}}}
  fair: {cfg: {scale: {tune: [1.5, 2]}}, against: tuned}
  matched: {cfg: {scale: {match: tuned}}, against: tuned}
"""
    path = write(*ENOUGH, "  cfg: {cfg: {scale: 1.5}}\n", "  cfg: {cfg: {scale: 1.5}}\n" + arms)
    path.write_text(path.read_text() + "tune: {metric: fid, count: 160}\n")
    assert warned(path) == []


def test_warnings_are_shown_and_change_no_exit_code(write: Write) -> None:
    path = write()
    done = nagbench("check", path)
    assert done.returncode == 0
    assert "warning: 2 training seeds (nag and cfg)" in done.stdout
    assert "warning: score.features: pixels: 40 samples of each cell and 64 dimensions: below 154" in done.stdout
    assert json.loads(nagbench("check", path, "--json").stdout)["warnings"] == forewarnings(read_sweep(path))
    assert "warning: " not in nagbench("check", path, "--smoke").stdout


def test_a_report_tells_why_an_arm_has_no_partner(write: Write, tmp_path: Path) -> None:
    """Its cells are scored, so it is not for want of scores."""
    new = "  cfg: {cfg: {scale: 1.5}}\n  two: {cfg: {scale: 2}, against: cfg}\n"
    path = write("  cfg: {cfg: {scale: 1.5}}\n", new, "seed: {grid: [0, 1]}", "seed: 0", "[1.0, 2.0]", "[1.0]")
    run_here(path, tmp_path / "store")
    told = nagbench("report", path, "--store", tmp_path / "store", "--tracking", "none").stdout
    words = " ".join(told.split())
    assert "Not compared: two: this arm cannot be compared with cfg: cfg.scale is 2, and cfg has 1.5." in words
    assert "because cells are not scored" not in words
    assert (tmp_path / "store-reports" / "tiny" / "report.html").is_file()
    assert f"Report: {tmp_path / 'store-reports' / 'tiny' / 'report.html'}" in told
