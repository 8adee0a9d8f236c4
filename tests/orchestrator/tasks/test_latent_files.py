"""A sweep on latents that others have saved: checked, trained and sampled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.nag.test_datasets_latent_files import lightning_dit, repa
from tests.orchestrator.conftest import nagbench, run_here

SWEEP = """\
name: latents
networks:
  sit:
    data: {name: latents, path: data, scale: 0.18215}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 2}
    train: {steps: 3, batch: 4, noise_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 6, block: 6}
arms:
  plain: {}
  nag: {nag: {scale: 1.5}}
"""


def test_a_network_is_trained_on_repas_latents(tmp_path: Path) -> None:
    repa(tmp_path / "data")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    told = json.loads(nagbench("check", tmp_path / "sweep.yaml", "--json").stdout)
    words = "REPA's .npy files with a dataset.json: 11 latents [8, 6, 6], mean and standard deviation"
    assert told["notes"] == [f"networks.sit.data: {words}", "networks.sit.data: dataset.json gives the labels"]
    deep = nagbench("check", "--deep", tmp_path / "sweep.yaml")
    assert "networks.sit.data: 11 training and 0 held-out images, 5 classes" in deep.stdout
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    assert not ran.failed
    for cell in ran.plan.cells:
        samples = ran.store.read_arrays(f"blocks/{cell.stream}/000000.safetensors")[0]["samples"]
        assert samples.shape == (6, 4, 6, 6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("", "data does not say how its latents are scaled; write scale: 1 if the latents are scaled already"),
        ("scale: 1, flip: true", "has no latents of mirrored images (it is REPA's .npy files with a dataset.json)"),
        ("scale: 1, holds: moments", "holds: expected samples or mean_std or mean_logvar, got 'moments'."),
        ("scale: [1, 2, 3]", "scale has 3 values for 4 channels"),
        ("scale: x", "networks.sit.data.scale: expected a number or a list"),
    ],
)
def test_what_is_not_told_is_asked_for_at_its_line(tmp_path: Path, fields: str, words: str) -> None:
    repa(tmp_path / "data")
    given = ", ".join(filter(None, ["{name: latents, path: data", fields]))
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("{name: latents, path: data, scale: 0.18215", given))
    done = nagbench("check", tmp_path / "sweep.yaml")
    assert done.returncode == 2
    assert f"{tmp_path}/sweep.yaml:4: networks.sit.data" in done.stderr
    assert words in done.stderr


def test_statistics_belong_to_the_identity_of_the_data(tmp_path: Path) -> None:
    lightning_dit(tmp_path / "data", statistics=True)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    first = run_here(tmp_path / "sweep.yaml", tmp_path / "store").plan
    (tmp_path / "data/latents_stats.pt").unlink()
    second = run_here(tmp_path / "sweep.yaml", tmp_path / "store").plan
    assert not first.tasks.keys() & second.tasks.keys()
