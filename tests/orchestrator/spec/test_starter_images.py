"""`init --images`: sweeps over a user's images that `check` accepts, with what the folder and the checkpoint allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from nag.checkpoint import dump_network
from nag.interpolants import Linear
from nag.models.sit import SiT
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from tests.nag.checkpoint_files import SAVED, states
from tests.orchestrator.conftest import nagbench, run_here
from tests.orchestrator.made_images import picture_folder
from tests.orchestrator.pictures import pictures
from tests.orchestrator.spec.test_starter import mistakes


@pytest.fixture(autouse=True)
def without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def init(folder: Path, *options: str | Path) -> str:
    """The text of the sweep, which is checked."""
    path = folder / "sweeps" / "mine.yaml"
    made = nagbench("init", path, "--images", folder / "images", *options)
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
    checked = nagbench("check", path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert mistakes(path.read_text()) == []
    return path.read_text()


def checkpoint(folder: Path, null_noise: bool, classes: int = 2, size: int = 8) -> Path:
    model = SiT(hidden=16, depth=1, heads=2, patch=4)
    weights = model.module((3, size, size), classes, null_noise=null_noise, seed=0).state_dict()
    known = {"shape": (3, size, size), "num_classes": classes, "has_null_noise": null_noise, "has_null_class": True}
    path = folder / "net.safetensors"
    path.write_bytes(dump_network(weights, model=model, interpolant=Linear(), predicts="velocity", **known))
    return path


def test_images_with_classes_run(tmp_path: Path) -> None:
    picture_folder(tmp_path / "images")
    text = init(tmp_path, "--resolution", "8")
    assert '{name: image_folder, path: "../images", resolution: 8, held_out: 0.1}' in text
    path = tmp_path / "sweeps" / "mine.yaml"
    small = {"steps: 1000": "steps: 4", "nfe: 18": "nfe: 6", "hidden: 64, depth: 4": "hidden: 16, depth: 1"}
    small |= {"{count: 1000, block: 100, seed: 0}": "{count: 24, block: 24, seed: 0}", "grid: [0, 1, 2]": "grid: [0]"}
    small |= {"count: 400, candidates: 6": "count: 24, candidates: 2", "patch: 1": "patch: 4"}
    for old, new in small.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    found = collect(ran.plan, ran.store)
    assert {cell.arm for cell in found.cells if cell.complete} == {"plain", "cfg", "nag", "matched"}


def test_one_class_and_a_held_out_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "images", [""], train=6)
    text = init(tmp_path)
    assert "cfg" not in text.partition("arms:")[2]
    assert "class_dropout" not in text
    assert "held_out: 0" not in text


@pytest.mark.parametrize(
    ("null_noise", "arms"), [(True, ["plain", "cfg", "nag", "matched"]), (False, ["plain", "cfg", "ready", "nag"])]
)
def test_a_checkpoint_of_ones_own(tmp_path: Path, null_noise: bool, arms: list[str]) -> None:
    picture_folder(tmp_path / "images")
    text = init(tmp_path, "--checkpoint", checkpoint(tmp_path, null_noise))
    assert 'checkpoint: "../net.safetensors"' in text
    assert "resolution: 8" in text
    assert [arm.name for arm in read_sweep(tmp_path / "sweeps" / "mine.yaml").arms] == arms


def test_weights_that_were_fetched_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.spec import starter_images

    monkeypatch.setattr(starter_images, "located", lambda path, name: Path(name))
    picture_folder(tmp_path / "images")
    text = starter_images.sweep_text(str(tmp_path / "images"), None, None, None, tmp_path / "x.yaml", "schema")
    assert "features: [inception]" in text


def test_bad_input(tmp_path: Path) -> None:
    picture_folder(tmp_path / "images")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "cats").mkdir(parents=True)
    (tmp_path / "bare" / "cats" / "notes.txt").write_text("no image")
    own, other = checkpoint(tmp_path, True), SAVED["state dict"](tmp_path, *states())
    cases = {
        ("--images", "nowhere"): "--images nowhere: there is no file or folder 'nowhere'",
        ("--images", tmp_path / "empty"): f"there are no images below {tmp_path}/empty.",
        ("--images", tmp_path / "bare"): f"there are no images below {tmp_path}/bare.",
        ("--images", tmp_path / "images", "--like", "digits"): "give one",
        ("--resolution", "8"): "--resolution needs --images",
        ("--checkpoint", own): "--checkpoint needs --images",
        ("--images", tmp_path / "images", "--family", "sit"): "--family needs --checkpoint",
        ("--images", tmp_path / "images", "--checkpoint", own, "--resolution", "16"): "the checkpoint is for 8",
        ("--images", tmp_path / "images", "--checkpoint", tmp_path / "none.pt"): "none.pt",
        ("--images", tmp_path / "images", "--checkpoint", other): "docs/networks.md",
    }
    for options, words in cases.items():
        refused = nagbench("init", tmp_path / "new.yaml", *options)
        assert refused.returncode == 2, options
        assert words in refused.stderr.replace("\n", " "), refused.stderr
    assert not (tmp_path / "new.yaml").exists()
