"""Whoever adds a metric, a sampler, a guidance, a data set or an extractor writes one file, and one line in
`nag/registry.py`. Here that is done to a copy of the packages, and a sweep uses all five.

What other tests ask of a newcomer besides, they say: its defaults in tests/test_golden.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from nag.metrics.metric import Shown, shown
from nag.registry import METHODS, find

ROOT = Path(__file__).parents[1]

METRIC = '''\
from typing import ClassVar

from nag.metrics.metric import Scores, Shown, plain, rows
from nag.registry import method


@method
class Spread:
    """How far the samples lie apart, and how many of them are bright."""

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("spread", "bright_share", "gap_to_mean")
    lower_is_better: ClassVar[dict[str, bool]] = {"spread": False, "bright_share": False, "gap_to_mean": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "spread": Shown(label="Spread of Samples", heading="sprd", format="number"),
        "gap_to_mean": Shown(beside="Gap", note="The gap is a curiosity."),
    }
    plane: ClassVar[tuple[str, str]] = ("spread", "bright_share")

    def __call__(self, samples, reference) -> Scores:
        x = rows(samples, "features", "sample features", self.least)
        values = {"spread": 1000 + x.std(), "bright_share": (x > 0).mean(), "gap_to_mean": abs(x.mean())}
        return Scores(values={name: plain(float(value)) for name, value in values.items()}, arrays={})
'''

BARE_METRIC = '''\
from typing import ClassVar

from nag.metrics.metric import Scores, plain
from nag.registry import method


@method
class Bare:
    """It says nothing of how it is shown."""

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("bare_mean", "bm")
    lower_is_better: ClassVar[dict[str, bool]] = {"bare_mean": True, "bm": True}
    least: ClassVar[int] = 1
    extrapolates: ClassVar[bool] = False

    def __call__(self, samples, reference) -> Scores:
        value = plain(float(samples["features"].mean()))
        return Scores(values={"bare_mean": value, "bm": value}, arrays={})
'''

SAMPLER = '''\
from typing import ClassVar

from nag.registry import Int, method
from nag.samplers.fixed_step import levels, march, undetermined, velocity


@method
class Midpoint:
    """Euler with the velocity in the middle of each step."""

    steps: Int

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True

    def network_calls(self) -> int:
        return 2 * self.steps

    def refuses(self, interpolant, predicts) -> str | None:
        return undetermined(interpolant, predicts, 1.0)

    def __call__(self, field, y, noise, *, observe=None):
        return march(self, field, y, noise, levels(1.0, 0.0, self.steps), observe)

    def step(self, field, x, y, t, t_next, draw):
        half = (t_next - t) / 2
        return x + 2 * half * velocity(field, x + half * velocity(field, x, y, t), y, t + half)
'''

GUIDANCE = '''\
from typing import ClassVar

from nag.guidance.terms import Term
from nag.registry import method


@method
class Push:
    """Away from the prediction without the class."""

    scale: float

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})

    @property
    def off(self) -> bool:
        return self.scale == 0

    def terms(self) -> tuple[Term, ...]:
        return Term(False, False, self.scale), Term(False, True, -self.scale)
'''

DATA = '''\
from typing import ClassVar

from nag.datasets.dataset import ArraySplit, check_split
from nag.registry import method


@method
class Stripes:
    """Rows of the brightness of their class, and a little noise."""

    VERSION: ClassVar[int] = 1
    shape: ClassVar[tuple[int, int, int]] = (1, 4, 4)
    num_classes: ClassVar[int] = 4
    stores: ClassVar[str] = "pixels"

    def open(self, split: str) -> ArraySplit:
        import numpy as np

        check_split(split)
        labels = np.arange(64 if split == "train" else 32) % 4
        noise = np.random.default_rng(len(labels)).normal(0, 0.1, (len(labels), 1, 4, 4))
        return ArraySplit((noise + (labels / 2 - 0.75)[:, None, None, None]).clip(-1, 1), labels)
'''

FEATURES = '''\
from typing import ClassVar

from nag.registry import method


@method
class RowMeans:
    """The mean of each row of pixels."""

    VERSION: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False

    def open(self, state=None, device="cpu"):
        return lambda images: {"features": images.to(device).float().mean((1, 3)) / 255}
'''

NEWCOMERS = {  # family: name, class, file
    "metrics": [("spread", "Spread", METRIC), ("bare", "Bare", BARE_METRIC)],
    "samplers": [("midpoint", "Midpoint", SAMPLER)],
    "guidance": [("push", "Push", GUIDANCE)],
    "datasets": [("stripes", "Stripes", DATA)],
    "features": [("row_means", "RowMeans", FEATURES)],
}

SWEEP = """\
name: newcomers
networks:
  sit:
    data: {name: stripes}
    model: {name: sit, hidden: 8, depth: 1, heads: 1, patch: 2}
    train: {steps: 2, batch: 4, lr: 1e-3, class_dropout: 0.2}
sampler: {name: midpoint, steps: 2}
sample: {count: 16, block: 16}
score: {features: [row_means], metrics: [fid, spread, bare]}
arms:
  plain: {}
  push: {push: {scale: {grid: [0.5, 1.0]}}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with one file and one line for each newcomer, and the sweep."""
    folder = tmp_path_factory.mktemp("home")
    for package in ("nag", "orchestrator"):
        shutil.copytree(ROOT / package, folder / package)
    registry = folder / "nag" / "registry.py"
    for family, added in NEWCOMERS.items():
        for name, cls, text in added:
            (folder / "nag" / family / f"{name}.py").write_text(text)
            head = f'    "{family}": {{\n'
            assert registry.read_text().count(head) == 1
            line = f'        "{name}": "nag.{family}.{name}:{cls}",\n'
            registry.write_text(registry.read_text().replace(head, head + line))
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


DRIVER = """
import sys
from orchestrator.commands import check, report, run
from orchestrator.commands.app import app
for line in sys.argv[1:]:
    command, *rest = line.split()
    print(f"== {command}", flush=True)
    code = app(args=[command, *rest], prog_name="nagbench", standalone_mode=False)
    assert not code, (command, code)
"""


def nagbench(home: Path, *lines: str) -> list[str]:
    """What these commands print, one after another in one process of the copy."""
    environment = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", DRIVER, *lines]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(r"^== .*\n", done.stdout, flags=re.MULTILINE)[1:]


def test_a_sweep_uses_all_newcomers(home: Path) -> None:
    checked, told, printed = nagbench(
        home,
        "check sweep.yaml",
        "run sweep.yaml --here --tracking none",
        "report sweep.yaml --tracking none --json",
    )
    assert "3 cells in 2 arms" in checked
    found = json.loads(printed)
    names = {"fid", "spread", "bright_share", "gap_to_mean", "bare_mean", "bm"}
    assert all(names <= cell["metrics"].keys() for cell in found["cells"]), found

    # In the terminal: the column that the metric declared, with its format, and plain ones where it declares nothing.
    assert "sprd" in told
    page = (home / "results" / "reports" / "newcomers" / "report.html").read_text()
    for words in ("Spread of Samples", "bare mean", "BM", "gap to mean", "The gap is a curiosity.", "row_means"):
        assert words in page, words
    assert (home / "results" / "reports" / "newcomers" / "figures" / "bright_share_spread.svg").exists()


def test_a_metric_that_declares_nothing_or_something_else_is_shown_by_default() -> None:
    class Plain:
        pass

    class Older:  # of a user who had the name first
        shown = True

    class Other:
        shown: ClassVar[dict[str, str]] = {"x": "X"}

    for metric in (Plain(), Older(), Other()):
        assert shown(metric, "x") == Shown()
    with pytest.raises(ValidationError):
        Shown(format="nubmer")


def test_every_metric_shows_only_names_that_it_has() -> None:
    known = {"fid": ("fid", "fid_held_out")}
    for family in ("metrics", "measures"):
        for name in METHODS[family]:
            cls = find(family, name)
            assert set(getattr(cls, "shown", {})) <= {*known.get(name, cls.names)}, name
