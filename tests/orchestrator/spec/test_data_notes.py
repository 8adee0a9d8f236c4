"""What `check` tells of data sets, and what a plan keeps of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nag.datasets import listing
from orchestrator.plan.make import plan
from orchestrator.plan.stored_plan import plan_checksum, read_plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.nag.image_files import fill, noise_image
from tests.nag.test_datasets_latent_files import repa
from tests.orchestrator.conftest import nagbench

SWEEP = """\
name: notes
networks:
  sit:
    data: {name: image_folder, path: images, resolution: 8}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 2, batch: 12}
sampler: {name: euler, steps: 2}
sample: {count: 12, block: 12}
arms:
  plain: {}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two classes, one with a name that is not UTF-8, and files of other kinds."""
    root = fill(tmp_path / "images", {"Train/plain": 3, "valid/plain": 1})
    odd = os.fsencode(root) + b"/Train/caf\xe9"
    os.mkdir(odd)
    for i in range(2):
        with open(odd + b"/%d.png" % i, "wb") as file:
            noise_image(i).save(file, "png")
    (root / "Train/plain/x.heic").write_bytes(b"x")
    (root / "Train/plain/.DS_Store").write_bytes(b"x")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


CLASSES = ["caf\\xe9", "plain"]
NOTES = [
    "networks.sit.data: 2 classes: caf\\xe9, plain",
    "networks.sit.data: 2 of 8 files are left out: 1 .DS_Store, 1 .heic",
]


def test_check_tells_classes_and_what_is_left_out(sweep: Path) -> None:
    done = nagbench("check", sweep)
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, NOTES)
    told = json.loads(nagbench("check", sweep, "--json").stdout)
    assert (told["notes"], told["classes"]) == (NOTES, {"networks.sit.data": CLASSES})
    deep = nagbench("check", "--deep", sweep)
    assert "networks.sit.data: 5 training and 1 held-out images, 2 classes" in deep.stdout


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_more_arms_do_not_look_at_the_data_more_often(kind: str, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look asks for the state of many files, and for that of a URL over the network."""
    text = SWEEP.replace("batch: 12", "batch: 12, class_dropout: 0.1")
    if kind == "latents":
        repa(sweep.parent / "saved")
        text = text.replace("image_folder, path: images, resolution: 8", "latents, path: saved, scale: 1")
        text = text.replace("patch: 4", "patch: 2")
    else:
        text = text.replace("arms:", "score: {features: [pixels], metrics: [fid, kid, precision_recall]}\narms:")
    looks: list[str] = []
    read = listing.read_listing
    monkeypatch.setattr(listing, "read_listing", lambda path, **more: looks.append(path) or read(path, **more))

    def looked(scales: str) -> int:
        looks.clear()
        sweep.write_text(f"{text}  cfg: {{cfg: {scales}}}\n")
        plan(read_sweep(sweep))
        return len(looks)

    once = looked("{scale: 2}")
    assert 0 < looked("{scale: {grid: [1.5, 2, 3, 4, 5, 6, 7, 8]}}") <= once


def test_data_that_are_elsewhere_have_no_notes(sweep: Path) -> None:
    (sweep.parent / "images").rename(sweep.parent / "away")
    told = json.loads(nagbench("check", sweep, "--json").stdout)
    assert (told["notes"], told["classes"]) == ([], {})
    assert plan(read_sweep(sweep)).classes == {}


def test_a_plan_keeps_the_names_of_classes(sweep: Path, tmp_path: Path) -> None:
    made = plan(read_sweep(sweep))
    (content,) = made.places
    assert made.classes == {content: tuple(CLASSES)}
    done = nagbench("run", sweep, "--store", tmp_path / "store", "--tracking", "none", "--here")
    assert done.returncode == 0, done.stderr
    kept = read_plan(Store(str(tmp_path / "store")), plan_checksum(made))
    assert kept.classes == made.classes


def test_two_networks_on_one_data_set_are_told_once(sweep: Path) -> None:
    text = SWEEP.replace(
        "sampler:",
        "  dit: {data: {name: image_folder, path: images, resolution: 8}, init: sit, "
        "train: {steps: 2, batch: 12}}\nsampler:",
    )
    sweep.write_text(text.replace("  plain: {}", "  plain: {network: sit}\n  other: {network: dit}"))
    assert [line for line in nagbench("check", sweep).stdout.splitlines() if "left out" in line] == NOTES[1:]


def test_an_image_under_a_name_of_any_bytes_can_fail(sweep: Path, tmp_path: Path) -> None:
    """Its name goes through records, logs and reports."""
    bad = os.fsencode(tmp_path / "images") + b"/Train/caf\xe9/0.png"
    with open(bad, "wb") as file:
        file.write(b"not an image")
    failed = nagbench("run", sweep, "--store", tmp_path / "store", "--tracking", "none", "--here")
    assert failed.returncode == 1
    assert "caf\\xe9/0.png: it cannot be read as an image" in failed.stdout + failed.stderr
    sweep.write_text(SWEEP.replace("resolution: 8", "resolution: 8, on_error: skip"))
    done = nagbench("run", sweep, "--store", tmp_path / "store", "--tracking", "none", "--here")
    assert done.returncode == 0, done.stderr
