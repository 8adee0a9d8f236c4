"""A sweep with inputs that are not on this machine is checked and planned, refused by `run`, and runs with --smoke."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nag.autoencoders.block_means import BlockMeans
from nag.datasets import listing
from nag.datasets.synthetic import SyntheticImages
from nag.models.dit import DiT
from nag.registry import name_of
from orchestrator.errors import BadInput
from orchestrator.plan.availability import absent
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.plan.stored_plan import document
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Quiet, nagbench, run_here

SWEEP = """\
name: elsewhere
networks:
  pre: {checkpoint: weights/DiT.pt, family: dit, autoencoder: {path: someone/vae}}
  tuned:
    init: pre
    data:
      grid: [{name: cub200, path: birds, flip: true}, {name: food101, path: food}, {name: image_folder, path: mine}]
    train: {preset: dog_sft, noise_dropout: 0.1}
network: tuned
sampler: {name: ddpm, steps: 50}
sample: {count: 10000}
score: {features: [inception, {name: dinov2, weights: dino.pt}], metrics: [fid, precision_recall], reference: adm.npz}
arms:
  plain: {}
  dog: {dog: {scale: 1.5, reference: pre}}
  nag: {nag: {scale: {grid: [0.5, 1.0, 2.0]}}}
"""

NPZ = """\
networks:
  sit:
    data: {name: npz, path: images.npz}
    model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}
    train: {steps: 5, batch: 4, lr: 1e-3}
sampler: {name: euler, steps: 2}
sample: {count: 4, block: 4}
arms:
  plain: {}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(old: str = "", new: str = "") -> Path:
        assert old in SWEEP
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP.replace(old, new) if old else SWEEP)
        return path

    return made


def test_it_is_planned_and_says_what_is_absent(sweep: Callable[..., Path], tmp_path: Path) -> None:
    found = plan(read_sweep(sweep()))
    lines = absent(found)
    names = ("DiT.pt", "someone/vae", "birds", "food", "mine", "adm.npz", "inception-2015-12-05.pt", "dino.pt")
    assert len(lines) == len(names)
    for name in names:
        assert sum(name in line for line in lines) == 1, name
    assert "networks.tuned.data: " + str(tmp_path / "birds") + ": there is no such folder; " in "\n".join(lines)
    assert "hf download someone/vae" in "\n".join(lines)
    assert "nagbench fetch inception-2015-12-05.pt" in "\n".join(lines)
    assert "unread" not in json.dumps(document(found))


def test_check_and_plan_exit_well_and_run_does_not(sweep: Callable[..., Path], tmp_path: Path) -> None:
    path = sweep()
    for name in ("check", "plan"):
        done = nagbench(name, path, *(("--store", tmp_path / "none") if name == "plan" else ()))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("not on this machine: ") == 8
    told = json.loads(nagbench("plan", path, "--json", "--store", tmp_path / "none").stdout)
    assert len(told["absent"]) == 8
    done = nagbench("run", path, "--store", tmp_path / "none", "--tracking", "none")
    assert done.returncode == 2
    assert "8 inputs are not on this machine:\n  networks.tuned.data: " in done.stderr


def test_counts_of_data_sets_that_are_elsewhere(sweep: Callable[..., Path]) -> None:
    """Counts are the official ones, so the plan has the right size; if there are none, one shard."""
    found = plan(read_sweep(sweep()))
    counts = sorted(task.params["count"] for task in found.tasks.values() if task.kind == "encode")
    assert counts == [1_000, 5_994, 75_750]


def test_nothing_of_it_is_in_the_digests_of_what_is_here(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Once a file is there, its content counts and its place does not."""
    with_heads = (", family: dit", ", family: dit, heads: 2")
    before = set(plan(read_sweep(sweep(*with_heads))).tasks)
    (tmp_path / "weights").mkdir()
    module = DiT(hidden=8, depth=1, heads=2, patch=2, learned_variance=True).module((4, 32, 32), 1000, null_noise=False)
    torch.save(module.state_dict(), tmp_path / "weights/DiT.pt")
    after = plan(read_sweep(sweep(*with_heads)))
    assert not before & {d for d, task in after.tasks.items() if task.kind in ("train", "sample")}
    assert len(absent(after)) == 7


def stand_ins(found: Plan) -> set[str]:
    methods = [m for n in found.networks for m in (n.data, n.autoencoder) if m is not None]
    return {type(method).__name__ for method in (*methods, *(found.sweep.score.features if found.sweep.score else ()))}


def test_smoke_reads_none_of_it(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """The first and last task: latents, a fine-tune with other classes, DoG and NAG, scored and compared."""
    small = read_sweep(sweep(), smoke=True)
    found = plan(small)
    assert not absent(found)
    assert stand_ins(found) == {"SyntheticImages", "SyntheticExtractor", "BlockMeans"}
    pre = next(n for n in found.networks if n.name == "pre")
    assert (name_of(pre.model), pre.interpolant, pre.predicts) == ("dit", *_dit())
    assert pre.model.learned_variance
    tuned = {id(c.cell.network): c.cell.network for c in found.cells}.values()
    assert sorted(n.data.classes for n in tuned) == [10, 200]
    assert {c.cell.params["data"] for c in found.cells} == {"cub200", "image_folder"}
    path = tmp_path / "store"
    from orchestrator.backends.inline import Inline
    from orchestrator.execution import engine
    from orchestrator.report.document import document
    from orchestrator.report.results import collect
    from orchestrator.tasks.context import Options

    store = Store(str(path))
    assert not engine.run(found, store, lambda: Inline(store, Options()), Quiet())
    told = document(collect(found, store), store)
    assert len(told["cells"]) == 2 * 4
    assert {row["arm"] for row in told["comparisons"]} == {"dog", "nag"}
    assert all(cell["metrics"]["fid"]["value"] > 0 for cell in told["cells"])
    stored = store.read_arrays(f"blocks/{found.cells[0].stream}/000000.safetensors")[0]["samples"]
    assert stored.shape[1:] == BlockMeans().latent_shape(SyntheticImages(resolution=32).shape)


def _dit() -> tuple[object, str]:
    from nag.official_checkpoints import FAMILIES

    return FAMILIES["dit"].interpolant, "eps"


def test_smoke_makes_the_same_networks_each_time(sweep: Callable[..., Path], tmp_path: Path) -> None:
    found = [plan(read_sweep(sweep(), smoke=True)) for _ in range(2)]
    assert found[0].tasks.keys() == found[1].tasks.keys()


def test_smoke_checks_all_that_is_written(sweep: Callable[..., Path]) -> None:
    with pytest.raises(BadInput, match="resolution"):
        read_sweep(sweep("path: food}", "path: food, resolution: 0}"), smoke=True)
    with pytest.raises(BadInput, match="To plan without it, add family"):
        read_sweep(sweep(", family: dit", ""), smoke=True)


def test_a_checkpoint_that_describes_itself_stays(tmp_path: Path) -> None:
    """Under --smoke it is used as it is, with its data: it is small, and on this machine."""
    from tests.orchestrator.spec.test_networks import LOADED
    from tests.orchestrator.spec.test_networks import SWEEP as PRE

    (tmp_path / "pre.yaml").write_text(PRE)
    ran = run_here(tmp_path / "pre.yaml", tmp_path / "store")
    network = next(ran.plan.tasks[c.stream].params["network"] for c in ran.plan.cells if c.cell.arm == "pre")
    (tmp_path / "mine.safetensors").write_bytes(ran.store.read(f"files/{network}/network.safetensors"))
    text = LOADED.replace("CHECKPOINT", "mine.safetensors").replace("FAMILY", "")
    (tmp_path / "loaded.yaml").write_text(text)
    [network_] = {id(c.network): c.network for c in read_sweep(tmp_path / "loaded.yaml", smoke=True).cells}.values()
    assert network_.checkpoint == str(tmp_path / "mine.safetensors")
    from tests.orchestrator.pictures import pictures

    pictures(tmp_path / "new", ["a", "b"], 4, size=8)
    tuned = text.replace("{name: digits}", "{name: image_folder, path: new, resolution: 8}")
    (tmp_path / "loaded.yaml").write_text(tuned)
    with pytest.raises(BadInput, match=r"its images are \[3, 8, 8\], the checkpoint's \[1, 8, 8\]"):
        read_sweep(tmp_path / "loaded.yaml", smoke=True)


@pytest.mark.parametrize("command", ["check", "status"])
def test_a_file_where_a_folder_of_images_is_needed(sweep: Callable[..., Path], tmp_path: Path, command: str) -> None:
    """It is refused with its line, and not read: it has 16 GB."""
    with (tmp_path / "birds").open("wb") as file:
        file.truncate(16 << 30)
    done = nagbench(command, sweep(), timeout=120)
    assert done.returncode == 2
    words = f"sweep.yaml:7: networks.tuned.data.grid[0]: {tmp_path / 'birds'} is a file, not a folder."
    assert done.stderr.strip().endswith(words)


def test_a_large_npz_that_was_never_read_is_not_read_by_status(
    sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "QUICK", 100)
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.split("networks:")[0] + NPZ)
    monkeypatch.setattr(listing, "_content", lambda path: pytest.fail(f"{path} was read"))
    found = plan(read_sweep(path), hashes=False)
    assert '"unread ' in json.dumps(document(found))
    assert absent(found) == []
