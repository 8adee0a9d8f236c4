"""Checkpoints of other programs in a sweep: known at `check` without torch, in digests, copied, run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nag.models.sit import SiT
from orchestrator.errors import BadInput
from orchestrator.identity import content
from orchestrator.plan.make import plan
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from tests.nag.checkpoint_files import SAVED, states
from tests.orchestrator.conftest import Ran, nagbench, run_here
from tests.test_architecture import HEAVY, ROOT

SWEEP = """\
name: brought
networks:
  sit: {checkpoint: FILEGIVEN}
sampler: {name: euler, steps: 2}
sample: {count: 4, block: 4}
arms:
  plain: {}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """`sweep(name, given)`: a sweep with one of the twenty files."""

    def write(name: str, given: str = ", family: sit, heads: 3", arms: str = "") -> Path:
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        file = SAVED[name](tmp_path, *states())
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP.replace("FILE", file.name).replace("GIVEN", given) + arms)
        return path

    return write


def train_params(path: Path) -> dict[str, object]:
    planned = plan(read_sweep(path))
    return next(dict(task.params) for task in planned.tasks.values() if task.kind == "train")


def samples(ran: Ran) -> np.ndarray:
    assert not ran.failed, ran.failed
    return ran.store.read_arrays(block_name(ran.plan.cells[0].stream, 0))[0]["samples"]


WORDS = (
    "networks.sit.checkpoint: EMA weights (ema) of a training file; not taken: model; SiT, hidden 48, depth 2, "
    "heads 3, patch 4, states 4 x 16 x 16, 7 classes, learned variance, null class, no null noise"
)


def test_check_says_what_was_found_and_reads_no_tensor(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Torch is not even imported, and a cut within the tensors is not seen: `check --deep` opens them."""
    path = sweep("official training", ", heads: 3")
    command = "import sys\nfrom orchestrator.cli import main\nfor name in {}: sys.modules[name] = None\n"
    command += "sys.argv = ['nagbench', 'check', {!r}]\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", command.format(HEAVY, str(path))], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert WORDS in done.stdout, done.stderr
    done = nagbench("check", path, "--json")
    assert json.loads(done.stdout)["checkpoints"] == {"sit": WORDS.removeprefix("networks.sit.checkpoint: ")}
    done = nagbench("check", path, "--deep")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[4, 16, 16], 7 classes, predicts velocity, null class condition" in done.stdout

    ema = states()[1]
    ema["final_layer.linear.bias"][0] = float("nan")
    torch.save({"ema": ema}, tmp_path / "training.pt")
    path.write_text(path.read_text().replace("heads: 3", "heads: 3, family: sit"))
    assert nagbench("check", path).returncode == 0
    with pytest.raises(BadInput, match=r":3: networks\.sit\.checkpoint: .*linear\.bias is not finite"):
        list(check_inputs(read_sweep(path)))


def test_what_enters_a_digest(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """The content, the family whether it was written or found, and of the rest what is given."""
    written, found = (
        train_params(sweep("official training", given)) for given in (", family: sit, heads: 3", ", heads: 3")
    )
    assert written == found == {"checkpoint": content(str(tmp_path / "training.pt")), "family": "sit", "heads": 3}
    by_key = [train_params(sweep("official training", f", heads: 3, key: {key}")) for key in ("model", "[model]")]
    assert by_key[0] == by_key[1] == found | {"key": ["model"]}
    classes = train_params(sweep("state dict", ", family: sit, heads: 3, num_classes: 8"))
    assert classes["num_classes"] == 8
    folder = train_params(sweep("shards"))["checkpoint"]
    assert folder == content(str(tmp_path / "shards"))
    index = sweep("shards")
    index.write_text(index.read_text().replace("shards", "shards/model.safetensors.index.json"))
    assert train_params(index)["checkpoint"] == folder
    shape = train_params(sweep("no pos_embed", ", family: sit, heads: 3, shape: [4, 16, 16]"))["shape"]
    assert shape == [4, 16, 16]


def test_a_size_that_only_the_data_say(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Without positions, states have the shape of the data, which the task then needs too."""
    path = sweep("no pos_embed")
    with pytest.raises(BadInput, match=r":3: networks\.sit\.checkpoint: .* no pos_embed, .* give shape: \[C, H, W\]"):
        read_sweep(path)
    module = SiT(hidden=16, depth=1, heads=2, patch=4).module((1, 8, 8), 10, null_noise=False)
    state = {name: weight for name, weight in module.state_dict().items() if name != "pos_embed"}
    torch.save(state, tmp_path / "small.pt")
    path.write_text(SWEEP.replace("FILE", "small.pt").replace("GIVEN", ", family: sit, heads: 2, data: {name: digits}"))
    assert train_params(path)["shape"] == [1, 8, 8]
    assert samples(run_here(path, tmp_path / "store")).shape == (4, 1, 8, 8)


@pytest.mark.parametrize("name", ["shards", "EMA of Lightning", "no pos_embed", "safetensors"])
def test_a_sweep_runs_on_it(sweep: Callable[..., Path], tmp_path: Path, name: str) -> None:
    """The same samples as of the plain state dict with these weights; the file is not needed afterwards."""
    raw, ema = states()
    given = ", family: sit, heads: 3" + (", shape: [4, 16, 16]" if name == "no pos_embed" else "")
    path = sweep(name, given)
    ran = run_here(path, tmp_path / "store")
    made = samples(ran)
    shutil.rmtree(tmp_path / "shards", ignore_errors=True)
    state = raw if name in ("shards", "safetensors") else ema
    torch.save(state, tmp_path / "plain.pt")
    plain = tmp_path / "plain.yaml"
    plain.write_text(SWEEP.replace("FILE", "plain.pt").replace("GIVEN", ", family: sit, heads: 3"))
    np.testing.assert_array_equal(samples(run_here(plain, tmp_path / "other")), made)


def test_a_damaged_copy_of_a_folder_is_made_again(sweep: Callable[..., Path], tmp_path: Path) -> None:
    path = sweep("shards")
    made = samples(run_here(path, tmp_path / "store"))
    for block in (tmp_path / "store/blocks").rglob("*.safetensors"):
        block.unlink()
    for kind in ("files", "records"):
        shutil.rmtree(tmp_path / "store" / kind)
    [shard] = (tmp_path / "store/assets").rglob("model-00001*")
    shard.chmod(0o600)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    np.testing.assert_array_equal(samples(run_here(path, tmp_path / "store")), made)


def test_smoke_makes_a_small_one(sweep: Callable[..., Path]) -> None:
    for name in ("official training", "no pos_embed"):
        given = ", family: sit, heads: 3, shape: [4, 16, 16]"
        network = read_sweep(sweep(name, given), smoke=True).cells[0].network
        assert (network.checkpoint, network.model.hidden) == (None, 8)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("state dict", ", heads: 3", r"same names and shapes; give its family: dit or sit"),
        ("state dict", ", family: sit", r"weights do not show heads: give heads"),
        ("official training", ", family: dit, heads: 3", r"its training was of a SiT-XL/2; say family 'sit'"),
        (
            "EMA of Lightning",
            ", family: sit, heads: 3, key: emma",
            r"key emma leads to no weights; what does: \[state_d",
        ),
        ("state dict", ", family: sit, heads: 3, num_classes: 3", r"its class table has 8 rows"),
        ("state dict", ", family: sit, heads: 3, shape: [4, 16]", r"shape: expected \[C, H, W\], three numbers, got 2"),
        ("state dict", ", family: sit, heads: 3, shape: [4, 16, 0]", r"expected a whole number, at least 1, got 0"),
        ("state dict", ", family: sit, heads: 3, key: {a: b}", r"key: expected text, got a mapping"),
        ("state dict", ", family: sit, heads: 3, key: []", r"key: expected a list such as \[state_dict, ema\]"),
        (
            "state dict",
            ", family: sit, heads: 3, data: {name: digits}",
            r"images are \[1, 8, 8\], the checkpoint's \[4, ",
        ),
    ],
)
def test_what_is_refused_at_check(sweep: Callable[..., Path], name: str, given: str, words: str) -> None:
    with pytest.raises(BadInput, match=rf"sweep\.yaml:3: networks\.sit.*{words}"):
        read_sweep(sweep(name, given))


def test_guidance_without_its_null_condition(sweep: Callable[..., Path]) -> None:
    path = sweep("official training", arms="  nag: {nag: {scale: 1.0}}\n")
    with pytest.raises(BadInput, match=r":8: arms\.nag\.nag: .* its checkpoint has not; fine-tune it first"):
        read_sweep(path)
    assert len(read_sweep(sweep("official training", arms="  cfg: {cfg: {scale: 1.5}}\n")).cells) == 2
