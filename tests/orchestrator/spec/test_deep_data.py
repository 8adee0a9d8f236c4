"""Data sets and sites that do not fit a sweep: reported by `check --deep`, or before anything is queued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.campaign import check_batches
from orchestrator.backends.site import read_site
from orchestrator.errors import BadInput
from orchestrator.plan.make import plan
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import nagbench, run_here
from tests.orchestrator.pictures import pictures
from tests.orchestrator.users_files import EVERYTHING, laid_out

SWEEP = """\
name: data
networks:
  sit:
    data: {name: DATA, path: images, resolution: 8}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 2, batch: 12}
sampler: {name: euler, steps: 2}
sample: {count: 12, block: 12}
score: {features: [{name: made_up, of: test}], metrics: [fid, {name: precision_recall, k: 5}]}
arms:
  plain: {}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    def made(data: str = "image_folder", **more: str) -> Path:
        text = SWEEP.replace("DATA", data)
        for key, value in more.items():
            text = text.replace("resolution: 8", f"resolution: 8, {key}: {value}")
        (tmp_path / "sweep.yaml").write_text(text)
        return tmp_path / "sweep.yaml"

    return made


def deep(path: Path) -> str:
    """The error of `check --deep`, or its lines about valid inputs."""
    try:
        return "\n".join(check_inputs(read_sweep(path)))
    except BadInput as error:
        return f"refused: {str(error).replace(str(path), path.name)}"


def test_good(sweep: Callable[..., Path], tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a", "b"], 10, size=8)
    assert "networks.sit.data: 20 training and 8 held-out images, 2 classes" in deep(sweep())


def test_folders_that_are_of_another_task(sweep: Callable[..., Path], tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a", "b"], 10, size=8)
    message = deep(sweep("cub200"))
    words = f"{tmp_path}/images has 2 class folders to train on, CUB200 has 200."
    assert message == f"refused: sweep.yaml:4: networks.sit.data: {words}"


def test_another_number_of_images(sweep: Callable[..., Path], tmp_path: Path) -> None:
    pictures(tmp_path / "images", [f"style{i}" for i in range(10)], 3, held_out=1, size=8)
    message = deep(sweep("artbench10"))
    assert f"{tmp_path}/images: 30 training images" in message.replace("train images", "training images")
    assert "has 50,000" in message
    assert "10 held-out images, the official split of ArtBench10 has 10,000" in message


def test_an_image_that_cannot_be_read(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """`check --deep` reads the first of each class; a later one fails the task that reads it, with its name."""
    folder = pictures(tmp_path / "images", ["a", "b"], 10, size=8)
    bad = folder / "train/b/003.png"
    bad.write_bytes(bad.read_bytes()[:40])
    ran = run_here(sweep(), tmp_path / "store")
    assert "images/train/b/003.png: it cannot be read as an image" in "\n".join(ran.failed.values())
    for each in (folder / "train/b").iterdir():
        each.write_bytes(b"not a picture")
    message = deep(sweep())
    assert message.startswith("refused: sweep.yaml:4: networks.sit.data: ")
    assert "images/train/b/" in message


def test_images_that_are_skipped_are_counted(sweep: Callable[..., Path], tmp_path: Path) -> None:
    from orchestrator.report.costs import costs
    from orchestrator.report.results import collect

    folder = pictures(tmp_path / "images", ["a", "b"], 10, size=8)
    for name in ("train/a/001.png", "train/b/003.png", "test/a/000.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    ran = run_here(sweep(on_error="skip"), tmp_path / "store")
    assert not ran.failed
    told = "\n".join(costs(collect(ran.plan, ran.store), ran.store))
    assert "3 images could not be read and were replaced by others of their classes (on_error: skip)" in told
    assert "such as test/a/000.png" in told


def test_too_few_images(sweep: Callable[..., Path], tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a", "b"], 2, size=8)
    expected = "'precision_recall' needs 6 reference images, and 'image_folder' has 4."
    assert deep(sweep()).endswith(expected)
    for command in (["check"], ["run", "--store", tmp_path / "store"]):  # without --deep too
        refused = nagbench(*command, sweep())
        assert refused.returncode == 2
        assert refused.stderr.rstrip().endswith(expected)
    assert not (tmp_path / "store").exists()
    nearer = sweep()
    nearer.write_text(nearer.read_text().replace("precision_recall, k: 5", "density_coverage, k: 4"))
    assert "'density_coverage' needs 5 reference images, and 'image_folder' has 4." in deep(nearer)
    (tmp_path / "images/train/a/000.png").unlink()
    (tmp_path / "images/train/a/001.png").unlink()
    assert f"{tmp_path}/images/train/a has no images (1 of 2 class folders have none)" in deep(sweep())


def test_too_few_images_of_a_users_own_data_set(tmp_path: Path) -> None:
    """How many it has shows when its code runs."""
    path = laid_out(tmp_path, EVERYTHING)
    path.write_text(path.read_text().replace("fid]", "{name: precision_recall, k: 60}]").replace("20,", "80,"))
    assert nagbench("check", path).returncode == 0
    refused = nagbench("check", "--deep", path)
    assert refused.returncode == 2
    assert "sweep.yaml:4: networks.sit.data: 'precision_recall' needs 61 reference images, and " in refused.stderr


def test_images_that_are_no_reference_may_be_few(tmp_path: Path) -> None:
    path = laid_out(tmp_path, EVERYTHING)
    text = path.read_text().replace("fid]", "{name: precision_recall, k: 60}]\n  reference: {name: digits}")
    path.write_text(text.replace("20,", "80,"))
    done = nagbench("check", "--deep", path)
    assert done.returncode == 0, done.stderr


SITE = """\
kind: slurm
partition: gpu
stages:
  train: {gpus: 4, nodes: 2}
"""


def test_a_batch_that_the_processes_do_not_divide(sweep: Callable[..., Path], tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a", "b"], 4, size=8)
    (tmp_path / "wide.yaml").write_text(SITE)
    (tmp_path / "good.yaml").write_text(SITE.replace("gpus: 4", "gpus: 3"))
    found = plan(read_sweep(sweep()))
    check_batches(found, read_site(str(tmp_path / "good.yaml")))
    words = (
        "stages.train has 2 x 4 GPUs, and networks.sit.train.batch: a global batch of 12 cannot be divided equally "
        "among 8 processes: train with 6 of them, or with batch: 8 or 16"
    )
    with pytest.raises(BadInput) as caught:
        check_batches(found, read_site(str(tmp_path / "wide.yaml")))
    assert str(caught.value) == f"{tmp_path}/wide.yaml: {words}"
    refused = nagbench("check", "--deep", sweep(), "--site", tmp_path / "wide.yaml")
    assert (refused.returncode, words in refused.stderr) == (2, True)
    for command in (("plan",), ("submit",), ("run", "--tracking", "none")):
        done = nagbench(*command, sweep(), "--store", tmp_path / "none", "--site", tmp_path / "wide.yaml")
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "none").exists()
