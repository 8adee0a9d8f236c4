"""`--set KEY=VALUE`: the sweep is the one with the value in its file, and messages name the option as the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.plan.make import plan
from orchestrator.plan.stored_plan import plan_of_sweep
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import nagbench

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["networks.sit.train.lr=2e-3"], ("lr: 1e-2", "lr: 2e-3")),
        (["sample.count=60", "sampler.steps=3"], ("count: 40", "count: 60", "steps: 2}", "steps: 3}")),
        (["networks.sit.train.seed=1"], ("seed: {grid: [0, 1]}", "seed: 1")),
        (["arms.nag.nag.scale={grid: [1.0, 3.0]}"], ("[1.0, 2.0]", "[1.0, 3.0]")),
        (["arms.nag.nag.scale.grid=[1.0, 3.0]"], ("[1.0, 2.0]", "[1.0, 3.0]")),
        (["arms.cfg.sampler.steps=4"], ("cfg: {cfg: {scale: 1.5}}", "cfg: {cfg: {scale: 1.5}, sampler: {steps: 4}}")),
        (["precision={tf32: true}", "keep=features"], ("arms:", "precision: {tf32: true}\nkeep: features\narms:")),
        (["name=other"], ("name: tiny", "name: other")),
    ],
)
def test_digests_are_those_of_the_value_in_the_file(write: Write, options: list[str], changes: tuple[str, ...]) -> None:
    edited = plan(read_sweep(write(*changes, name="edited.yaml")))
    given = plan(read_sweep(write(), overrides=options))
    assert [*given.tasks] == [*edited.tasks]
    assert [(c.arm, c.params, c.digest) for c in given.cells] == [(c.arm, c.params, c.digest) for c in edited.cells]
    assert (given.goals, given.sweep.name, given.sweep.keep) == (edited.goals, edited.sweep.name, edited.sweep.keep)
    assert [*given.tasks] != [*plan(read_sweep(write())).tasks] or options[0].startswith("name")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("networks.sit.train.lrr=1", "networks.sit.train: unknown key 'lrr'. Did you mean 'lr'? Known: batch"),
        ("networks.sit.train.lr=-1", "networks.sit.train.lr: expected a number above 0, got -1."),
        ("networks.siit.train.lr=1", "networks: unknown network 'siit'. Did you mean 'sit'? Known: sit."),
        ("arms.nagg={}", "arms: unknown arm 'nagg'. Did you mean 'nag'? Known: cfg, nag, plain."),
        ("arms.cfg.cfg.scal=2", "arms.cfg.cfg: unknown key 'scal'. Did you mean 'scale'?"),
        ("smaple.count=2", "unknown key 'smaple'. Did you mean 'sample'? Known: arms"),
        ("sampler.name=eler", "sampler.name: unknown name 'eler'. Did you mean 'euler'?"),
        ("name.first=x", "name: it is 'tiny', which has no keys; set it as a whole, --set name=..."),
        ("sample.count", "expected KEY=VALUE, such as networks.sit.train.lr=1e-3."),
        ("sample.count=", "sample.count: a value is missing after '='."),
        ("sample.count=[1", "sample.count: a ',' or the closing ']' is missing"),
        ("sample.count=012", "sample.count: 012 has a leading zero. Write 12"),
        ("networks.sit.data={name: image_folder, path: food, resolution: 0}", "networks.sit.data.resolution: expected"),
    ],
)
def test_a_mistake_names_the_option(write: Write, option: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_sweep(write(), overrides=[option])
    assert str(caught.value).startswith(f"--set {option}: {words}")


def test_a_key_given_twice_is_refused(write: Write) -> None:
    with pytest.raises(BadInput, match=r"sample\.count is set twice; give it once"):
        read_sweep(write(), overrides=["sample.count=40", "sample.count=60"])


def test_a_mistake_found_when_data_is_read_names_the_option(write: Write, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    done = nagbench("check", write(), "--deep", "--set", "networks.sit.data={name: image_folder, path: bare}")
    assert done.returncode == 2
    assert done.stderr.startswith("--set networks.sit.data={name: image_folder, path: bare}: networks.sit.data: ")


def test_status_and_report_tell_what_was_set(write: Write, tmp_path: Path) -> None:
    """By name, and by the file; and if the file is given without it, that it was run with it."""
    path, store = write("seed: {grid: [0, 1]}", "seed: 0"), tmp_path / "store"
    where, given = ("--store", store), ("--set", "sample.count=20", "--set", "networks.sit.train.lr=2e-3")
    quiet = ("--tracking", "none")
    ran = nagbench("run", path, *where, *given, *quiet, "--device", "cpu", "--workers", "1", "--arm", "plain")
    assert ran.returncode == 0, ran.stderr
    told = "With --set sample.count=20 --set networks.sit.train.lr=2e-3\n"
    assert told in ran.stdout
    kept = plan_of_sweep(Store(str(store)), "tiny")
    assert kept.sweep.overrides == ("sample.count=20", "networks.sit.train.lr=2e-3")
    assert "# --set sample.count=20\n" in kept.sweep.text
    assert {cell.count for cell in kept.cells} == {20}
    for sweep in ("tiny", path):
        more = given if sweep is path else ()
        for name in ("status", "report"):
            shown = nagbench(name, sweep, *where, *more, *quiet)
            assert told in shown.stdout, shown.stderr
            assert "last run here" not in shown.stdout
            as_json = json.loads(nagbench(name, sweep, *where, *more, *quiet, "--json").stdout)
            assert as_json["overrides"] == list(kept.sweep.overrides)
    bare = nagbench("status", path, *where)
    assert f"It was last run here {told[:1].lower()}{told[1:-1]}; this shows the sweep as its file is." in bare.stdout
    refused = nagbench("status", "tiny", *where, "--set", "sample.count=10")
    assert refused.returncode == 2
    assert refused.stderr.startswith("--set sample.count=10: tiny is a name in the store, whose values are fixed")
