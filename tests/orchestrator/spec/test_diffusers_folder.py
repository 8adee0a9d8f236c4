"""A folder of diffusers in a sweep: known at `check`, sampled, fine-tuned, and tried small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.reader import read_sweep
from tests.nag.test_diffusers import unet
from tests.orchestrator.conftest import changed, run_here

SWEEP = """\
name: diffusers
networks:
  ddpm: {checkpoint: unet, data: digits}
  ready:
    init: ddpm
    data: digits
    train: {steps: 2, batch: 8, noise_dropout: 0.5, class_dropout: 0.5}
network: ddpm
sampler: {name: ddim, steps: 2}
sample: {count: 10, block: 10}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  both: {network: ready, nag: {scale: 0.5}, cfg: {scale: 1.5}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    unet(tmp_path / "unet")
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def test_it_runs(sweep: Path, tmp_path: Path) -> None:
    """Sampled as it is; a fine-tune teaches both null conditions."""
    ran = run_here(sweep, tmp_path / "store")
    assert not ran.failed, ran.failed
    assert [cell["network_calls"] for cell in ran.document()["cells"]] == [2, 6]
    small = read_sweep(sweep, smoke=True)
    assert small.cells[0].network.train is not None


DATA = "data: digits}\n"
GONE = "there is no folder '{}/gone'; its config.json says what the network is, so put it there."
KEY = "unknown key 'heads'. Known: autoencoder, checkpoint, data, family, num_classes."
BAD = [
    ("unet,", "gone, family: diffusers,", GONE),
    (DATA, "data: {name: made_up, resolution: 8}}\n", "its images are [3, 8, 8], the checkpoint's [1, 8, 8]."),
    (DATA, "data: digits, heads: 3}\n", KEY),
    (DATA, "data: digits, num_classes: 5}\n", "{}/unet: num_classes 5 was given, but its config.json says 10."),
    (
        "{network: ready, nag: {scale: 0.5}, cfg",
        "{cfg",
        "'cfg' needs a network that has learned the null class condition",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), BAD, ids=["folder", "shape", "key", "classes", "guidance"])
def test_what_does_not_fit_is_said_at_check(sweep: Path, old: str, new: str, said: str) -> None:
    sweep.write_text(changed(SWEEP, old, new))
    with pytest.raises(SpecError) as caught:
        read_sweep(sweep, run_user_code=False)
    assert said.replace("{}", str(sweep.parent)) in str(caught.value)


def test_another_pipeline_is_said_at_check(sweep: Path) -> None:
    config = sweep.parent / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(SpecError, match="of diffusers, UNet2DModel and DiTTransformer2DModel can be loaded"):
        read_sweep(sweep)
