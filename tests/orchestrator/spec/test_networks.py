"""Networks made from others or from checkpoints, and guidance with references, in whole sweeps."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nag.checkpoint import parse
from nag.models.sit import SiT
from orchestrator.errors import SpecError
from orchestrator.plan.make import plan
from orchestrator.report.costs import costs
from orchestrator.report.results import collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from tests.nag.test_header import file_of
from tests.orchestrator.conftest import Ran, nagbench, run_here

SWEEP = """\
name: tuned
networks:
  pre:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
  ft:
    init: pre
    data: {name: digits}
    train: {steps: 4, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
  guide:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4, bins: 10}
    train: {steps: 4, batch: 16, seed: 7}
  small:
    data: {name: digits}
    model: {name: noise_level_residual, hidden: 8, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-2, level_error: 0.5}
network: ft
sampler: {name: euler, steps: 3}
sample: {count: 20, block: 20}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  pre: {network: pre}
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Ran]:
    """`run(arms)`: the sweep with more arms, on one store."""

    def made(arms: str, sweep: str = SWEEP) -> Ran:
        path = tmp_path / "sweep.yaml"
        path.write_text(sweep + arms)
        ran = run_here(path, tmp_path / "store")
        assert not ran.failed, ran.failed
        return ran

    return made


def of_arm(ran: Ran, arm: str) -> dict[int, np.ndarray]:
    """The samples of an arm by training seed."""
    found = {}
    for planned in ran.plan.cells:
        if planned.cell.arm == arm:
            seeds = [v for k, v in planned.cell.params.items() if k.endswith("train.seed")]
            found[seeds[0] if seeds else 0] = ran.store.read_arrays(block_name(planned.stream, 0))[0]["samples"]
    return found


def weights(ran: Ran, network: str, seed: int) -> dict[str, torch.Tensor]:
    cell = next(c.cell for c in ran.plan.cells if c.cell.network.name == network and seed in c.cell.params.values())
    digest = next(ran.plan.tasks[c.stream].params["network"] for c in ran.plan.cells if c.cell.network is cell.network)
    return parse(ran.store.read(f"files/{digest}/network.safetensors"), "cpu", "x")[0].state_dict()


def test_a_fine_tune_inherits_seed_and_axes(run: Callable[[str], Ran]) -> None:
    ran = run("")
    params = [dict(planned.cell.params) for planned in ran.plan.cells]
    assert [p for p in params if p["network"] == "ft"] == [
        {"network": "ft", "pre.train.seed": seed, "sampler": "euler", "sampler.steps": 3} for seed in (0, 1)
    ]
    assert {c.cell.network.train.seed for c in ran.plan.cells if c.cell.network.name == "ft"} == {0, 1}
    row = next(r for r in ran.document()["comparisons"] if r["arm"] == "pre")
    assert len(row["per_seed"]) == 0 or len(row["per_seed"]) == 2
    assert row["difference_at_n"] is not None, "paired although the keys of the seeds differ"


def test_a_fine_tune_goes_on_with_its_parents_data(tmp_path: Path) -> None:
    """Without data of its own, one on each value of the parent's; pairs of cells are of the same data."""
    path = tmp_path / "sweep.yaml"
    tuned = SWEEP.replace("    data: {name: digits}\n    train: {steps: 4", "    train: {steps: 4")
    axis = "{name: made_up, resolution: 8, classes: 2, images: {grid: [8, 12]}}"
    tuned = tuned.replace("data: {name: digits}", f"data: {axis}", 1)
    path.write_text(tuned.replace("seed: {grid: [0, 1]}", "seed: 0").replace("pre: {network", "before: {network"))
    sweep = read_sweep(path)
    arms = {arm: [cell for cell in sweep.cells if cell.arm == arm] for arm in ("plain", "before")}
    sampler = {"sampler": "euler", "sampler.steps": 3}
    assert [cell.params for cell in arms["plain"]] == [{"network": "ft", "data.images": n} | sampler for n in (8, 12)]
    assert [cell.params for cell in arms["before"]] == [{"network": "pre", "data.images": n} | sampler for n in (8, 12)]
    assert all(cell.network.data is cell.network.init.data for cell in arms["plain"] if cell.network.init)
    assert "data.images" in sweep.shared_axes


def test_a_parent_without_data_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    file = tmp_path / "mine.pt"
    file.touch()
    network = "  pre: {checkpoint: mine.pt, family: dit}\n  ft: {init: pre, train: {steps: 2}}\n"
    path.write_text(
        f"name: bare\nnetworks:\n{network}network: ft\nsampler: {{name: ddpm, steps: 2}}\narms: {{plain: {{}}}}\n"
    )
    file.unlink()
    with pytest.raises(
        SpecError, match=r"sweep.yaml:4: networks.ft: 'data' is missing, and 'pre' has none to go on with."
    ):
        read_sweep(path)


def test_a_fine_tune_starts_from_its_parent(run: Callable[[str], Ran], tmp_path: Path) -> None:
    """With a tiny learning rate it stays like its parent; with only: null_noise only that row changes."""
    tiny = SWEEP.replace("steps: 4, batch: 16, lr: 1e-2", "steps: 4, batch: 16, lr: 1e-20")
    ran = run("", tiny)
    old, new = weights(ran, "pre", 1), weights(ran, "ft", 1)
    assert all(torch.allclose(old[name], new[name], atol=1e-7) for name in old)
    only = SWEEP.replace("steps: 4, batch: 16, lr: 1e-2", "steps: 4, batch: 16, lr: 1e-2, only: null_noise", 1)
    ran = run("", only)
    old, new = weights(ran, "pre", 1), weights(ran, "ft", 1)
    assert {name for name in old if not torch.equal(old[name], new[name])} == {"null_noise"}


def test_references(run: Callable[[str], Ran]) -> None:
    """Every guidance with a reference runs; DoG with the network's own null class is CFG, in every pixel."""
    ran = run(
        "  cfg: {cfg: {scale: 1.5}}\n"
        "  own: {dog: {scale: 1.5, reference: ft}}\n"
        "  dog: {dog: {scale: 1.5, reference: pre}}\n"
        "  self: {autoguidance: {scale: 2.0, reference: ft}}\n"
        "  auto: {autoguidance: {scale: 2.0, reference: pre}}\n"
        "  classifier: {nag_classifier: {scale: 0.5, reference: guide}}\n"
        "  sum: {cfg: {scale: 1.5}, nag: {scale: 1.0}}\n"
        "  nested: {cfg: {scale: 1.5}, nag: {scale: 1.0}, compose: nested}\n"
        "  late: {cfg: {scale: 1.5, interval: {low: 0.0, high: 0.5}}}\n"
        "  nlc: {noise_level_correction: {scale: 1.0, reference: small}}\n"
        "  nlc_both: {noise_level_correction: {scale: 1.0, reference: small}, cfg: {scale: 1.5}, nag: {scale: 1.0}}\n"
        "  nlc_off: {noise_level_correction: {scale: 0.0, reference: small}}\n"
    )
    for arm, same in (("own", "cfg"), ("self", "plain")):
        for seed in (0, 1):
            np.testing.assert_array_equal(of_arm(ran, arm)[seed], of_arm(ran, same)[seed])
    for arm in ("dog", "auto", "classifier", "nested", "nlc", "nlc_both"):
        other = "sum" if arm in ("nested", "nlc_both") else "plain"
        assert not np.array_equal(of_arm(ran, arm)[0], of_arm(ran, other)[0]), arm
    calls = {cell["arm"]: cell["network_calls"] for cell in ran.document()["cells"]}
    assert calls == {
        "plain": 3, "pre": 3, "cfg": 6, "own": 6, "dog": 6, "self": 3, "auto": 6, "classifier": 5, "sum": 9,
        "nested": 12, "late": 4, "nlc": 3, "nlc_both": 9, "nlc_off": 3,
    }  # fmt: skip
    streams = {planned.cell.arm: planned.stream for planned in ran.plan.cells}
    records = {arm: ran.store.read_arrays(block_name(stream, 0))[1] for arm, stream in streams.items()}
    asked = {arm: record["residual_calls"] for arm, record in records.items() if "residual_calls" in record}
    assert asked == {"nlc": 2, "nlc_both": 2}, "the small network is asked in each step but the first"
    assert streams["nlc_off"] == streams["plain"]
    assert len(ran.plan.cells) == 2 * len(calls), "a reference brings no axes that the cell's own line has"


def test_a_training_of_a_learned_variance_says_so(run: Callable[..., Ran]) -> None:
    """In the record and the report, of a fine-tune too; not where the null-noise embedding alone is trained."""
    dit = "{name: dit, hidden: 16, depth: 1, heads: 2, patch: 4, learned_variance: true}"
    sweep = SWEEP.replace("{name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}", f"{dit}\n    interpolant: vp")
    sweep = sweep.replace("interpolant: vp", "interpolant: vp\n    predicts: eps", 1)
    sweep = sweep.replace("{name: euler, steps: 3}", "{name: ddpm, steps: 2}").replace("{grid: [0, 1]}", "0")
    branch = (
        "  branch: {init: ft, train: {steps: 2, batch: 16, noise_dropout: 0.5, class_dropout: 0.2, only: null_noise}}"
    )
    sweep = sweep.replace("network: ft\n", f"{branch}\nnetwork: ft\n")
    ran = run("  branch: {network: branch}\n", sweep)
    trained = {
        ran.plan.instances[digest].name: "trains_variance" in ran.store.read_record(task.record_name)
        for digest, task in ran.plan.tasks.items()
        if task.kind == "train"
    }
    assert trained == {"pre": True, "ft": True, "branch": False}
    said = "The learned variance was trained too, with its bound in the loss: ft and pre."
    assert said in costs(collect(ran.plan, ran.store), ran.store)


def test_a_whole_interval_is_none(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        SWEEP + "  cfg: {cfg: {scale: 1.5}}\n  whole: {cfg: {scale: 1.5, interval: {low: 0, high: 1}, channels: all}}\n"
    )
    digests = {arm: {c.digest for c in plan(read_sweep(path)).cells if c.cell.arm == arm} for arm in ("cfg", "whole")}
    assert digests["cfg"] == digests["whole"]


def test_a_reference_of_another_line_brings_its_axes(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    other = """  bad:
    data: {name: digits}
    model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 4}
    train: {steps: {grid: [2, 3]}}
network: ft"""
    path.write_text(SWEEP.replace("network: ft", other) + "  auto: {autoguidance: {scale: 2, reference: bad}}\n")
    planned = plan(read_sweep(path))
    auto = [dict(c.cell.params) for c in planned.cells if c.cell.arm == "auto"]
    assert len(auto) == 4
    assert {(p["pre.train.seed"], p["bad.train.steps"]) for p in auto} == {(0, 2), (0, 3), (1, 2), (1, 3)}


LOADED = """\
name: loaded
networks:
  mine: {checkpoint: CHECKPOINT, data: {name: digits}FAMILY}
sampler: {name: euler, steps: 3}
sample: {count: 20, block: 20}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
"""


def test_our_own_checkpoint(run: Callable[[str], Ran], tmp_path: Path) -> None:
    """The same samples as from the trained network, without naming its family; the file is not needed afterwards."""
    ran = run("")
    cell = next(c for c in ran.plan.cells if c.cell.arm == "pre")
    network = ran.plan.tasks[cell.stream].params["network"]
    file = tmp_path / "mine.safetensors"
    file.write_bytes(ran.store.read(f"files/{network}/network.safetensors"))
    text = LOADED.replace("CHECKPOINT", "mine.safetensors").replace("FAMILY", "")
    loaded = run("  nag: {nag: {scale: 1.0}}\n", text)
    np.testing.assert_array_equal(of_arm(loaded, "plain")[0], of_arm(ran, "pre")[0])
    assert json.loads(json.dumps(loaded.document()))["cells"][0]["params"]["network"] == "mine"


def test_status_and_check_read_no_checkpoint(tmp_path: Path) -> None:
    """They read only its header, as the file may have gigabytes, and write nothing, not even its checksum."""
    module = SiT(hidden=16, depth=1, heads=2, patch=4).module((1, 8, 8), 10, null_noise=False)
    torch.save(module.state_dict(), tmp_path / "sit.pt")
    path = tmp_path / "sweep.yaml"
    path.write_text(LOADED.replace("CHECKPOINT", "sit.pt").replace("FAMILY", ", family: sit, heads: 2"))
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name, options in (("check", ()), ("status", ("--store", tmp_path / "none"))):
        done = nagbench(name, path, *options, env=env)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "cache").exists()
    nagbench("plan", path, "--store", tmp_path / "none", env=env)
    assert len(list((tmp_path / "cache").rglob("*"))) == 3, "plan has read it, once"


def official(ran: Ran, kind: str) -> bytes:
    """A file like those of the official SiT code."""
    import io

    state = weights(ran, "pre", 0)
    state.pop("null_noise")
    saved: object = {name: tensor.clone() for name, tensor in state.items()}
    if kind == "training":
        saved = {"model": saved, "ema": saved, "opt": {"state": {}}, "args": argparse.Namespace(model="SiT")}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["weights", "training"])
def test_an_official_checkpoint(run: Callable[[str], Ran], tmp_path: Path, kind: str) -> None:
    ran = run("")
    (tmp_path / "sit.pt").write_bytes(official(ran, kind))
    text = LOADED.replace("CHECKPOINT", "sit.pt").replace("FAMILY", ", family: sit, heads: 2")
    loaded = run("", text)
    np.testing.assert_array_equal(of_arm(loaded, "plain")[0], of_arm(ran, "pre")[0])


def test_a_checkpoint_that_cannot_do_nag(run: Callable[[str], Ran], tmp_path: Path) -> None:
    """`check` says so, with a fix."""
    plain = SWEEP.replace("noise_dropout: 0.2, ", "")
    ran = run("", plain)
    cell = next(c for c in ran.plan.cells if c.cell.arm == "pre")
    network = ran.plan.tasks[cell.stream].params["network"]
    (tmp_path / "mine.safetensors").write_bytes(ran.store.read(f"files/{network}/network.safetensors"))
    path = tmp_path / "own.yaml"
    path.write_text(
        LOADED.replace("CHECKPOINT", "mine.safetensors").replace("FAMILY", "") + "  nag: {nag: {scale: 1}}\n"
    )
    with pytest.raises(SpecError, match=r"its checkpoint has not; fine-tune it first: .*sweeps/nag_ready.yaml does"):
        read_sweep(path)


ONLY = """\
name: only
networks:
  sit: {ENTRY}
sampler: {name: euler, steps: 2}
sample: {count: 10, block: 10}
arms:
  plain: {}
"""


TRAINED = "data: {{name: digits}}, model: {{name: {name}, {fields}, depth: 1, heads: 2, patch: 2}}, train: {train}"


def put_badly(folder: Path) -> None:
    """Many kinds of things in place of a checkpoint."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "cut.safetensors").write_bytes(file_of()[:-100])
    for name, old, new in (
        ("nonsense", b'predicts\\": \\"velocity', b'predicts\\": \\"nonsense'),
        ("deep", b"hidden\\", b"hidde_\\"),
        ("list", b'shape\\": [1, 8, 8]', b'shape\\": {}       '),
        ("damaged", b'shape\\": [1, 8, 8]', b'shape": [1, 8, 8] '),
    ):
        data = file_of()
        assert data.count(old) == 1
        (folder / f"{name}.safetensors").write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("checkpoint: null", r"checkpoint: expected the path of a file, got null"),
        ("checkpoint: null, family: dit", r"checkpoint: expected the path of a file, got null"),
        ("checkpoint: folder", r"checkpoint: .*folder: a folder without a file of weights"),
        ("checkpoint: folder, family: sit", r"checkpoint: .*folder: a folder without a file of weights"),
        ("checkpoint: fifo", r"fifo is a named pipe; a file or folder is needed"),
        ("checkpoint: fifo, family: dit", r"fifo is a named pipe; a file or folder is needed"),
        ("checkpoint: cut.safetensors", r"cut.safetensors: the file is cut off or damaged: its header lists [\d,]+ by"),
        ("checkpoint: nonsense.safetensors", r"network.predicts: Input should be .*, got 'nonsense'"),
        ("checkpoint: deep.safetensors", r"its model sit is not valid: hidden: Field required"),
        ("checkpoint: list.safetensors", r"network.shape: Input should be a valid array, got \{\}"),
        ("checkpoint: damaged.safetensors", r"not a safetensors file: its header is not its JSON"),
        *(
            (
                TRAINED.format(name=name, fields=fields, train=train),
                words,
            )
            for name in ("sit", "dit", "noise_level")
            for fields, train, words in (
                ("hidden: 1e308", "{steps: 1}", r"model.hidden: a whole number must be below 2\^63, got 1e\+308"),
                (
                    "hidden: 8, mlp_ratio: 1e308",
                    "{steps: 1}",
                    r"mlp_ratio \(1e\+308\) makes the MLPs wider than 1,048,5",
                ),
                ("hidden: 2097152", "{steps: 1}", r"model: hidden \(2097152\) is above 1,048,576"),
                ("hidden: 8", "{steps: 1e30}", r"train.steps: a whole number must be below 2\^63, got 1e\+30"),
                ("hidden: 8", "{steps: 1, batch: -1e19}", r"train.batch: a whole number must be below 2\^63"),
            )
        ),
    ],
)
def test_a_network_that_cannot_be(tmp_path: Path, entry: str, words: str) -> None:
    """One message with its line, whatever the file is and however large its numbers are."""
    put_badly(tmp_path)
    (tmp_path / "x.yaml").write_text(ONLY.replace("ENTRY", entry))
    with pytest.raises(SpecError, match=rf"x\.yaml:3: networks\.sit.*{words}"):
        read_sweep(tmp_path / "x.yaml")


def test_a_checkpoint_that_cannot_be_read(tmp_path: Path) -> None:
    """It opens but cannot be read, as on a broken disk."""
    path = tmp_path / "sweep.yaml"
    path.write_text(LOADED.replace("CHECKPOINT", "/proc/self/mem").replace("FAMILY", ", family: dit"))
    with pytest.raises(
        SpecError, match=r"sweep\.yaml:3: networks\.mine\.checkpoint: /proc/self/mem: cannot be read \("
    ):
        read_sweep(path)
