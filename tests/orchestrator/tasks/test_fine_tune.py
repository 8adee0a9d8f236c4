"""A real fine-tune, end to end: pretrained on some classes of pictures, tuned on others, guided, scored, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nag.checkpoint import parse
from nag.training import PRESETS, Training
from orchestrator.errors import SpecError
from orchestrator.plan.make import plan
from orchestrator.spec.model import Sweep
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.pictures import pictures

SWEEP = """\
name: sft
networks:
  pre:
    data: {name: image_folder, path: pre, resolution: 8}
    model: {name: sit, hidden: 32, depth: 2, heads: 2, patch: 2}
    train: {steps: 120, batch: 32, lr: 4e-3, ema: 0.98, noise_dropout: 0.1}
  tuned:
    init: pre
    data: &new {name: image_folder, path: new, resolution: 8}
    train: {preset: dog_sft, steps: 80, batch: 16, lr: 2e-3, ema: 0.98}
  ready:
    init: pre
    data: *new
    train: {preset: dog_sft, steps: 80, batch: 16, lr: 2e-3, ema: 0.98, noise_dropout: 0.1}
network: ready
sampler: {name: euler, steps: 6}
sample: {count: 90, block: 45}
score:
  features: [{name: made_up, of: test}]
  metrics: [fid, precision_recall]
  reference: {name: image_folder, path: new, resolution: 8}
arms:
  tuned:    {network: tuned}
  pre:      {network: pre}
  unguided: {}
  cfg:      {network: tuned, cfg: {scale: 1.5}}
  dog:      {network: tuned, dog: {scale: 1.5, reference: pre}}
  nag:      {nag: {scale: {grid: [0.5, 1.0]}}}
  dog_nag:  {dog: {scale: 1.5, reference: pre}, nag: {scale: 0.5}, against: dog}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sft")
    pictures(found / "pre", ["a", "b"], 30, size=8)
    pictures(found / "new", ["c", "d", "e"], 20, size=8, seed=1)
    (found / "sweep.yaml").write_text(SWEEP)
    return found


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    done = run_here(folder / "sweep.yaml", folder / "store")
    assert not done.failed, done.failed
    return done


@pytest.fixture
def read(folder: Path) -> Callable[..., Sweep]:
    def made(old: str, new: str) -> Sweep:
        assert old in SWEEP
        path = folder / "other.yaml"
        path.write_text(SWEEP.replace(old, new))
        return read_sweep(path)

    return made


def test_it_learns_the_new_classes(ran: Ran) -> None:
    fid = {cell["arm"]: cell["metrics"]["fid"]["value"] for cell in ran.document()["cells"]}
    assert fid["tuned"] < 0.7 * fid["pre"], fid
    assert fid["unguided"] < 0.7 * fid["pre"], fid


def test_every_arm_is_compared(ran: Ran) -> None:
    rows = {
        (row["arm"], *row["params"].values()): row for row in ran.document()["comparisons"] if row["metric"] == "fid"
    }
    assert {key[0] for key in rows} == {"pre", "unguided", "cfg", "dog", "nag", "dog_nag"}
    assert len(rows) == 7
    for row in rows.values():
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["interval"] == "influence"
    assert next(row for key, row in rows.items() if key[0] == "dog_nag")["against"] == "dog"
    calls = {cell["arm"]: cell["network_calls"] for cell in ran.document()["cells"]}
    assert calls == {"tuned": 6, "pre": 6, "unguided": 6, "cfg": 12, "dog": 12, "nag": 12, "dog_nag": 18}


def test_dog_names_its_reference(ran: Ran) -> None:
    """The plan has the edge to the network before its fine-tuning."""
    streams = {planned.cell.arm: ran.plan.tasks[planned.stream] for planned in ran.plan.cells}
    networks = {arm: stream.params["network"] for arm, stream in streams.items()}
    assert streams["dog"].inputs == (networks["tuned"], networks["pre"])
    assert ran.plan.tasks[networks["tuned"]].params["init"] == networks["pre"]


def test_the_class_table_is_new(ran: Ran) -> None:
    def weights(arm: str) -> dict[str, torch.Tensor]:
        digest = next(ran.plan.tasks[c.stream].params["network"] for c in ran.plan.cells if c.cell.arm == arm)
        return parse(ran.store.read(f"files/{digest}/network.safetensors"))[0].state_dict()

    tables = {arm: weights(arm)["y_embedder.embedding_table.weight"].shape[0] for arm in ("pre", "tuned", "unguided")}
    assert tables == {"pre": 2 + 1, "tuned": 3 + 1, "unguided": 3 + 1}
    assert "null_noise" not in weights("tuned")
    assert "null_noise" in weights("unguided")


def test_a_preset_is_its_fields(folder: Path, read: Callable[..., Sweep]) -> None:
    """Digests are of fields, so a recipe written out is the same training, and fields beside a preset override it."""
    recipe = ", ".join(f"{key}: {str(value).lower()}" for key, value in PRESETS["dog_sft"].items())
    whole = plan(read_sweep(folder / "sweep.yaml"))
    long = (
        recipe.replace("steps: 24000", "steps: 80")
        .replace("batch: 32", "batch: 16")
        .replace("lr: 0.0001", "lr: 2e-3")
        .replace("ema: 0.9999", "ema: 0.98")
    )
    assert long != recipe
    written = plan(read("{preset: dog_sft, steps: 80, batch: 16, lr: 2e-3, ema: 0.98}\n", f"{{{long}}}\n"))
    assert written.tasks.keys() == whole.tasks.keys()
    train = next(c.cell.network.train for c in whole.cells if c.cell.arm == "tuned")
    assert train == dataclasses.replace(Training(**PRESETS["dog_sft"]), steps=80, batch=16, lr=2e-3, ema=0.98)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "preset: dog_sft, steps: 80, batch: 16, lr: 2e-3, ema: 0.98}\n",
            "preset: dog}\n",
            "unknown preset 'dog'. Did you mean 'dog_sft'",
        ),
        ("preset: dog_sft, steps: 80, batch: 16, lr: 2e-3, ema: 0.98}\n", "preset: 3}\n", "expected text, got 3"),
        ("  pre:      {network: pre}", "  pre:      {network: tuned, nag: {scale: 1}}", "train.noise_dropout above 0"),
        ("reference: pre}}\n  nag", "reference: per}}\n  nag", "unknown generating network 'per'. Did you mean 'pre'"),
    ],
)
def test_bad_input(read: Callable[..., Sweep], old: str, new: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(old, new)
    assert words in str(caught.value)
