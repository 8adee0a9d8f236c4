"""`nagbench init --like`: start from an example."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.spec import examples
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.template import starter
from tests.orchestrator.conftest import nagbench


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "paper/scratch"])
def test_a_copy_of_an_example_is_a_sweep_of_the_new_name(tmp_path: Path, name: str) -> None:
    target = tmp_path / "mine.yaml"
    assert starter(target, name)[0] == target
    copied, example = read_sweep(str(target)), read_sweep(str(examples.example_sweep(name)))
    assert (copied.name, [arm.name for arm in copied.arms]) == ("mine", [arm.name for arm in example.arms])
    assert f"sweeps/{name.removesuffix('.yaml')}.yaml" not in target.read_text()


def test_the_command_copies_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    wrong = nagbench("init", target, "--like", "digts")
    assert (wrong.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "--like: unknown example 'digts'. Did you mean 'digits'? Known: digits, images, " in wrong.stderr
    done = nagbench("init", target, "--like", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {target}" in done.stdout
    assert "exists already" in nagbench("init", target, "--like", "digits").stderr


def test_examples_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = examples.example_sweep("digits").read_text()
    monkeypatch.setattr(examples, "SOURCE", tmp_path / "site-packages")
    monkeypatch.setattr(examples.sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(BadInput, match=r"--like: no examples in .*share/nagbench/sweeps"):
        examples.example_sweep("digits")
    installed = tmp_path / "data/share/nagbench/sweeps/few/digits.yaml"
    installed.parent.mkdir(parents=True)
    installed.write_text(text)
    assert examples.example_sweep("few/digits") == installed
    with pytest.raises(BadInput, match=r"unknown example 'digits'.*Known: few/digits"):
        examples.example_sweep("digits")
