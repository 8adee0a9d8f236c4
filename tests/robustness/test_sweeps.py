"""Every sweep and site file of the project, and some of our own, with random changes: a right answer or one message."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.orchestrator.conftest import TINY
from tests.robustness import damaged_yaml
from tests.robustness.cases import ROOT, Case, Step, check, play_all, stream, verdict
from tests.robustness.damaged_yaml import Changes, odd_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OWN = {  # what the project's own sweeps do not use
    "own_code": TINY.replace("name: tiny", "name: own_code").replace("class_accuracy", "kid").partition("arms:")[0]
    + "arms:\n  plain: {}\n  own: {own: {use: ./code.py:Own, scale: {grid: [1.0, 2.0]}}}\n",
    "files": """\
name: files
networks:
  own: {data: {name: npz, path: odd/data.npz}, checkpoint: odd/cut.safetensors, family: sit}
  given: {checkpoint: odd/empty, family: dit}
network: own
sampler: {name: dopri5, rtol: 1e-3}
sample: {count: 40, block: 20, seed: {grid: [0, 1]}, labels: random}
score: {features: [pixels], metrics: [fid], reference: odd/data.npz}
precision: {dtype: bfloat16, tf32: true}
keep: influence
arms:
  plain: {}
  cfg: {cfg: {scale: 1.5, interval: {low: 0.1, high: 0.9}, channels: 3}, network: given}
""",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's sweeps and what they refer to, beside things that are odd."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("sweeps", "sites", "results/reference"):
        shutil.copytree(ROOT / name, folder / name)
    for place in ("sweeps", "sweeps/paper", "sweeps/verify"):
        odd_files(folder / place)
    for name, text in OWN.items():
        (folder / "sweeps" / f"{name}.yaml").write_text(text)
    return folder


class Corpus:
    """The files of a pattern, read once."""

    def __init__(self, tree: Path, pattern: str) -> None:
        self.tree = tree
        self.paths = sorted(path for path in tree.glob(pattern) if not path.name.startswith("input-"))
        self.read = [damaged_yaml.read(path.read_text()) for path in self.paths]
        self.changes = Changes(self.read)


class Damaged(Case):
    """A file of the corpus with changes, written beside it, and a command that reads it."""

    def __init__(self, family: str, number: int, corpus: Corpus, folder: Path) -> None:
        self.corpus, self.chance = corpus, stream(family, number)
        own = [place for place, path in enumerate(corpus.paths) if path.stem in OWN]
        self.place = self.chance.choice(own if own and self.chance.random() < 0.3 else range(len(corpus.paths)))
        self.source = corpus.paths[self.place]
        self.path = self.source.with_name(f"input-{family}-{number}.yaml")
        super().__init__(family, number, str(self.source.relative_to(corpus.tree)), folder)

    def files(self) -> list[Path]:
        return [self.path]

    def damage(self) -> None:
        if self.chance.random() < 0.7:
            made, words = damaged_yaml.structure(self.corpus.read[self.place], self.corpus.changes, self.chance)
        else:
            made, words = damaged_yaml.text(self.source.read_bytes(), self.chance)
        self.path.write_bytes(made)
        self.words += f": {words}"


SWEEP_COMMANDS = (["check"],) * 5 + (
    ["check", "--json"],
    ["check", "--smoke"],
    ["plan"],
    ["plan", "--json"],
    ["status"],
)
SITE_COMMANDS = (["check", "--site"], ["plan", "--site"], ["plan", "--json", "--site"])


class Sweep(Damaged):
    def make(self) -> list[Step]:
        self.damage()
        words = self.chance.choice(SWEEP_COMMANDS)
        store = [] if words[0] == "check" else ["--store", "none"]
        return [Step([words[0], str(self.path), *words[1:], *store], named=(self.path.name,))]


class Real(Sweep):
    """The same in a process of its own, from its first import."""

    def make(self) -> list[Step]:
        return [replace(step, real=True, limit_s=20.0) for step in super().make()]


class Smoke(Damaged):
    """A sweep that is opened in depth, and run where it is good."""

    def make(self) -> list[Step]:
        self.damage()
        store = ["--store", str(self.folder / "work" / "store"), "--tracking", "none", "--workers", "1"]
        deep = Step(["check", str(self.path), "--deep"], named=(self.path.name,), heavy=True, limit_s=30.0)
        run = Step(["run", str(self.path), "--smoke", *store], named=(self.path.name,), heavy=True, limit_s=60.0)
        return [deep, run]


class Undone(Case):
    """Values nested without end, with the check for it or without."""

    def __init__(self, undo: str, folder: Path) -> None:
        self.undo = undo
        super().__init__("undone", 0, "nested", folder)

    def make(self) -> list[Step]:
        path = self.folder / "work" / "nested.yaml"
        path.write_text("name: " + "[" * 3000 + "]" * 3000)
        return [Step(["check", str(path)], named=("nested.yaml",), undo=self.undo)]


class Site(Damaged):
    def make(self) -> list[Step]:
        self.damage()
        sweep = self.corpus.tree / self.chance.choice(("sweeps/digits.yaml", "sweeps/paper/table1_imagenet.yaml"))
        words = self.chance.choice(SITE_COMMANDS)
        return [Step([words[0], str(sweep), *words[1:], str(self.path)], named=(self.path.name,))]


def test_sweeps(tree: Path, tmp_path: Path) -> None:
    corpus = Corpus(tree, "sweeps/**/*.yaml")
    check(lambda number: Sweep("sweep", number, corpus, tmp_path / str(number)), "sweep", 1700)


def test_processes(tree: Path, tmp_path: Path) -> None:
    corpus = Corpus(tree, "sweeps/**/*.yaml")
    check(lambda number: Real("process", number, corpus, tmp_path / str(number)), "process", 10)


def test_smoke_runs(tree: Path, tmp_path: Path) -> None:
    corpus = Corpus(tree, "sweeps/*.yaml")
    check(lambda number: Smoke("smoke", number, corpus, tmp_path / str(number)), "smoke", 16, heavy=True)


def test_a_missing_check_is_found(tmp_path: Path) -> None:
    """The harness can fail: without the limit of nesting there is a traceback."""
    for undo, found in (("", 0), ("orchestrator.spec.yaml_nodes:_limit", 1)):
        played, failures = play_all(lambda _, undo=undo: Undone(undo, tmp_path / "case"), [0], heavy=False)  # type: ignore[misc]
        assert (played, len(failures)) == (1, found)
    assert "RecursionError" in verdict(played, failures)


def test_sites(tree: Path, tmp_path: Path) -> None:
    corpus = Corpus(tree, "sites/*.yaml")
    check(lambda number: Site("site", number, corpus, tmp_path / str(number)), "site", 300)
