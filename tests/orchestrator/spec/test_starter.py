"""`init`: a valid sweep, and a schema that accepts all example sweeps and no misspelt one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nag.registry import METHODS
from orchestrator.errors import BadInput, NagbenchError
from orchestrator.spec.reader import ARM_KEYS, SWEEP_KEYS, read_sweep
from orchestrator.spec.template import SCHEMA_FILE, schema, starter
from orchestrator.spec.yaml_nodes import Node, parse
from tests.orchestrator.conftest import nagbench
from tests.orchestrator.spec.bad_sweep import SWEEP

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
DIGITS = f"""\
{SWEEP.partition("arms:")[0]}\
arms:
  plain:   {{}}
  cfg:     {{cfg: {{scale: {{grid: [1.25, 1.5]}}}}}}
  cfg_nag: {{cfg: {{scale: 1.25}}, nag: {{scale: 1.0}}, against: cfg}}
"""


def value(node: Node) -> Any:
    """A sweep file as an editor with YAML 1.2 sees it."""
    if isinstance(node.value, dict):
        return {key: value(child) for key, child in node.value.items()}
    return [value(item) for item in node.value] if isinstance(node.value, list) else node.value


def mistakes(text: str) -> list[str]:
    checker = jsonschema.Draft7Validator(schema())
    return [error.message for error in checker.iter_errors(value(parse(text, "x.yaml")))]


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    assert len(json.dumps(schema())) < 240_000


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_our_sweeps_fit(path: Path) -> None:
    assert mistakes(path.read_text()) == []


def test_a_started_sweep_is_right_and_fits(tmp_path: Path) -> None:
    path = tmp_path / "sweeps" / "first.yaml"
    assert starter(path) == [path, tmp_path / "sweeps" / SCHEMA_FILE]
    text = path.read_text()
    assert mistakes(text) == []
    checked = nagbench("check", path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "warning" not in checked.stdout, "a newcomer's first check is clean"
    sweep = read_sweep(path)
    assert (sweep.name, len(sweep.cells), [arm.name for arm in sweep.arms]) == (
        "first",
        60,
        ["plain", "cfg", "nag", "matched"],
    )
    assert f"# yaml-language-server: $schema={SCHEMA_FILE}\n" in text
    assert json.loads(path.with_name(SCHEMA_FILE).read_text()) == schema()
    assert max(map(len, text.replace(str(path), "sweeps/first.yaml").splitlines())) <= 120


def test_its_commented_line_is_right_too(tmp_path: Path) -> None:
    starter(tmp_path / "first.yaml")
    text = (tmp_path / "first.yaml").read_text().replace("# heun: ", "  heun: ")
    (tmp_path / "second.yaml").write_text(text)
    assert "heun" in [arm.name for arm in read_sweep(tmp_path / "second.yaml").arms]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("networks:", "network_s:"),
        ("data:", "dat:"),
        ("name: sit,", "name: sitt,"),
        ("hidden: 64", "hiden: 64"),
        ("hidden: 64", "hidden: many"),
        ("batch: 128", "batches: 128"),
        ("noise_dropout: 0.15", "noise_dropout: 1.5"),
        ("{grid: [0, 1, 2]}", "{grid: []}"),
        ("{grid: [0, 1, 2]}", "{grip: [0, 1, 2]}"),
        ("{grid: [0, 1, 2]}", "{grid: [0, {grid: [1]}]}"),
        ("name: euler", "name: eular"),
        ("steps: 10", "step: 10"),
        ("steps: 10", "steps: 0"),
        ("steps: 10", "nfe: 0"),
        ("steps: 10", "nfe: 20, steps: 10"),
        ("euler, steps: 10", "dopri5, nfe: 20"),
        ("count: 1000", "counts: 1000"),
        ("metrics: [fid", "metrics: [fdi"),
        ("metrics: [fid", "metrics: [{grid: [fid]}"),
        ("features: [digits", "feature: [digits"),
        ("{cfg: {scale:", "{cgf: {scale:"),
        ("{cfg: {scale:", "{cfg: {scal:"),
        ("plain:   {}", "plain: {mine: {use: mine, scale: 2}}"),
        ("plain:   {}", "plain: {mine: {file: ./mine.py:Mine, scale: 2}}"),
        ("plain:", "my plain:"),
        ("{grid: [0, 1, 2]}", "{tune: []}"),
        ("{grid: [1.25, 1.5]}", "{tune: [1.25, a]}"),
        ("{grid: [1.25, 1.5]}", "{tune: [1.25, {tune: [1, 2]}]}"),
        ("{grid: [1.25, 1.5]}", "{tune: [1, 2], grid: [3, 4]}"),
        ("{grid: [1.25, 1.5]}", "{tune: {low: 1}}"),
        ("{grid: [1.25, 1.5]}", "{tune: {low: 1, high: 4, pionts: 5}}"),
        ("{grid: [1.25, 1.5]}", "{tune: {low: 1, high: 4, points: 2}}"),
        ("{grid: [1.25, 1.5]}", "{grid: {low: 1, high: 4}}"),
        ("{grid: [1.25, 1.5]}", "{match: 3}"),
        ("{grid: [1.25, 1.5]}", "{match: nag, low: 3}"),
        ("{scale: 1.25}", "{scale: 2, interval: {hihg: 0.5}}"),
        ("{scale: 1.25}", "{scale: 2, interval: {high: 1.5}}"),
        ("nag: {scale: 1.0}", "nag: {scale: {match: cfg}}"),
        ("{name: digits}", "{name: {tune: {low: 1, high: 2}}}"),
        ("count: 1000", "count: {tune: [1000, 2000]}"),
        ("plain:   {}", "plain: {sample: {tune: [{count: 1000}, {count: 2000}]}}"),
        ("against: cfg", "agianst: cfg"),
        ("against: cfg", "against: 3"),
    ],
)
def test_a_mistake_is_seen(right: str, wrong: str) -> None:
    assert right in DIGITS
    assert mistakes(DIGITS.replace(right, wrong, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("plain:   {}", "plain: {sampler: {steps: {grid: [5, 20]}}}"),
        ("plain:   {}", "plain: {sampler: {steps: null}, sample: {seed: {grid: [0, 1]}}, nag: null}"),
        ("plain:   {}", "plain: {sampler: {grid: [{name: heun, steps: 5}, {name: euler, steps: 10}]}}"),
        ("{name: euler, steps: 10}", "{steps: 10}"),
        ("{name: euler, steps: 10}", "{name: euler, nfe: {grid: [20, 50]}}"),
        ("{name: euler, steps: 10}", "{grid: [{name: euler, nfe: 50}, {name: heun, steps: 5}]}"),
        ("plain:   {}", "plain: {sampler: {nfe: 50}}"),
        ("plain:   {}", "plain: {sampler: {nfe: null, steps: 5}}"),
        ("{name: euler, steps: 10}", "euler"),
        ("{name: digits}", "digits"),
        ("seed: {grid: [0, 1, 2]}", "seed: 0, ema: {grid: [0.99, 0.999]}"),
        ("count: 1000", "count: 1e3"),
        ("{scale: 1.25}", "{grid: [{scale: 1.25}, {scale: 2}]}"),
        ("score:", "network: sit\nscore:"),
        ("plain:   {}", "plain: {mine: {use: ./mine.py:Mine, scale: {grid: [1, 2]}}}"),
        ("{name: euler, steps: 10}", "{use: {grid: [./mine.py:A, ./mine.py:B]}, steps: 10}"),
        ("{name: digits}", "{use: ./mine.py:Faces}"),
        ("metrics: [fid", "metrics: [{use: ./mine.py:Gap}, fid"),
        ("{grid: [1.25, 1.5]}", "{tune: [1.25, 1.5]}"),
        ("{grid: [1.25, 1.5]}", "{tune: {low: 1.1, high: 4, points: 5, log: true}}"),
        ("{grid: [1.25, 1.5]}", "{match: plain}"),
        ("{scale: 1.25}", "{scale: 2, interval: {tune: [{}, {high: 0.5}]}}"),
        ("{scale: 1.25}", "{scale: 2, interval: {high: {tune: {low: 0.2, high: 0.8}}}}"),
        ("{scale: 1.25}", "{tune: [{scale: 1.25}, {scale: 2}]}"),
        ("noise_dropout: 0.15", "noise_dropout: {tune: [0.1, 0.15]}"),
        ("{name: euler, steps: 10}", "{name: euler, steps: {tune: {low: 2, high: 10}}}"),
        ("{name: euler, steps: 10}", "{tune: [{name: heun, steps: 5}, {name: euler, steps: 10}]}"),
        ("plain:   {}", "plain: {sampler: {steps: {tune: [5, 10]}}}"),
        ("score:", "tune: {metric: fid, seed: 1, count: 400, candidates: 6}\nscore:"),
        ("score:", "compare: {margin: 1.3 %, agree: [fid_pixels, recall]}\nscore:"),
    ],
)
def test_what_a_sweep_may_hold(old: str, new: str) -> None:
    assert old in DIGITS
    assert mistakes(DIGITS.replace(old, new)) == []


def test_the_schema_knows_every_key_and_method() -> None:
    """A key that the schema does not describe would be accepted with any value."""
    found = schema()["properties"]
    assert all(found[key] for key in SWEEP_KEYS)
    arm = found["arms"]["additionalProperties"]["properties"]
    assert arm.keys() == {*ARM_KEYS, *METHODS["guidance"]}
    text = json.dumps(schema())
    for family, names in METHODS.items():
        for name in names if family != "autoencoders" else ():  # a sweep writes where it lies, not which it is
            assert f'"{name}"' in text, (family, name)


def test_nothing_of_the_users_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text("mine")
    with pytest.raises(BadInput, match=r"exists already\. Give"):
        starter(path)
    assert path.read_text() == "mine"
    (tmp_path / SCHEMA_FILE).write_text('{"mine": true}')
    with pytest.raises(BadInput, match="exists already and is not from nagbench"):
        starter(tmp_path / "second.yaml")
    assert not (tmp_path / "second.yaml").exists()


def test_an_old_schema_of_ours_is_renewed(tmp_path: Path) -> None:
    starter(tmp_path / "first.yaml")
    assert starter(tmp_path / "second.yaml") == [tmp_path / "second.yaml"]
    old = json.dumps(schema() | {"properties": {}})
    (tmp_path / SCHEMA_FILE).write_text(old)
    assert tmp_path / SCHEMA_FILE in starter(tmp_path / "third.yaml")
    assert json.loads((tmp_path / SCHEMA_FILE).read_text()) == schema()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sweep", "a sweep is a .yaml file, such as"),
        ("2nd.yaml", "the file's name becomes the sweep's: a letter"),
        ("my sweep.yaml", "the file's name becomes the sweep's"),
    ],
)
def test_a_name_that_is_none(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        starter(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [".", "", "..", "/", "folder", "folder.yaml", f"{'x' * 300}/y.yaml", "/dev/null/x.yaml"]
)
def test_what_is_no_new_file_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(NagbenchError):
        starter(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "folder.yaml"]
