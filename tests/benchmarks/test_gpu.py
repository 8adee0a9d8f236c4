"""`python -m benchmarks.gpu` on the CPU with tiny networks: the code that a card runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import answer, decoding, device, precision, sampling, steps, training, truth
from benchmarks.gpu.bench import Bench, OverTime, at_most
from benchmarks.gpu.inception import RandomInception, shape
from benchmarks.gpu.networks import flops, model
from benchmarks.gpu.tables import beside_the_generator
from nag import hardware
from nag.features.pytorch_fid import _convolutions

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
ABSENT = ("mlflow", "ray", "submitit", "typer")


def bench(**fields: object) -> Bench:
    return Bench(**{"device": "cpu", "tiny": True, "vectors": None, "images": None, "seconds": 1e6} | fields)  # type: ignore[arg-type]


def test_truth_holds_on_the_cpu() -> None:
    given = bench(vectors=SHARED / "vectors" if (SHARED / "vectors").exists() else None)
    truth.run(given)
    assert [row for row in given.rows if not row["holds"]] == []
    checks = " ".join(row["check"] for row in given.rows)
    for word in ("equal bits", "micro-batch", "against the CPU", "resumed", "NaN", "Fréchet", "KID", "neighbours"):
        assert word in checks
    assert given.vectors is None or checks.count("official") == 12


def test_sampling_beside_the_official_way() -> None:
    given = bench()
    sampling.run(given)
    assert [row["network"] for row in given.rows] == ["SiT-XL/2", "DiT-XL/2", "DiT-XL/2"]
    assert all(row["images/s"] > 0 for row in given.rows)
    assert [row["ratio"] is None for row in given.rows] == [False, False, True]


def test_where_a_step_goes() -> None:
    given = bench()
    steps.run(given)
    took = {row["part"]: row["ms a step"] for row in given.rows if "part" in row}
    assert took["network"] > max(took["checks for NaN"], took["noise"]) > 0
    assert {row["ahead"] for row in given.rows if "noise" in row} == {False, True}


def test_decoding_and_features() -> None:
    given = bench()
    decoding.run(given)
    assert {"Inception", "PNG written"} <= {row["what"] for row in given.rows}


def test_training_and_two_processes() -> None:
    given = bench()
    training.run(given)
    assert given.rows[0]["holds"]
    assert given.rows[1]["images/s"] > 0


def test_an_answer_and_its_stamp(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    generator = torch.Generator().manual_seed(0)
    for name in ("light", "dark"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(40):
            pixels = torch.randint(0, 128, (8, 8, 3), generator=generator, dtype=torch.uint8) + 127 * (name == "light")
            image.fromarray(pixels.byte().numpy()).save(tmp_path / "train" / name / f"{number}.png")
    given = bench(images=tmp_path)
    answer.run(given)
    assert [row["arm"] for row in given.rows] == ["plain", "CFG 1.5", "NAG 1"]
    assert all(row["low"] < row["FID - plain"] < row["high"] for row in given.rows[1:])
    assert json.loads(given.notes[-1].removeprefix("stamp: "))["training images, with flips"] == 160


def test_what_precision_does_to_fid() -> None:
    given = bench()
    precision.run(given)
    (row,) = given.rows
    assert row["low"] <= row["FID difference"] <= row["high"]
    assert 0 < row["apart"] < 5e-2


def test_the_script_needs_no_orchestrator_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    """From a plain checkout, without the libraries of trackers and clusters; a folder without images fails one part."""
    (tmp_path / "images").mkdir()
    code = (
        f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
        "from benchmarks.gpu import __main__ as script\n"
        f"sys.argv = ['gpu', '--device', 'cpu', '--tiny', '--minutes', '20', '--parts', 'answer', 'sampling',\n"
        f"            '--images', {str(tmp_path / 'images')!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "code = script.main()\n"
        "assert not [name for name in sys.modules if name.startswith('orchestrator')]\n"
        "sys.exit(code)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {part["name"]: bool(part["failed"]) for part in document["parts"]} == {"answer": True, "sampling": False}
    assert all(part["rows"] for part in document["parts"] if part["name"] == "sampling")
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert text in done.stdout + "\n"
    assert "**failed**" in text
    assert "measures nothing" in text


def test_the_share_beside_the_generator() -> None:
    """0.25 s of the network, 0.02 of the VAE and 0.005 of Inception for an image."""
    sampled = {"network": "SiT-XL/2", "guidance": "CFG", "precision": "bf16 + compile", "images/s": 4.0}
    others = [
        {"what": "VAE", "images/s": 25.0},
        {"what": "VAE", "images/s": 50.0},
        {"what": "VAE, bf16", "images/s": 9e9},
    ]
    features = {"what": "Inception", "images/s": 200.0}
    parts = [{"rows": [sampled, {**sampled, "guidance": "plain", "images/s": 8.0}]}, {"rows": [*others, features]}]
    assert beside_the_generator({"parts": parts}) == pytest.approx(0.025 / 0.275)
    assert beside_the_generator({"parts": parts[:1]}) is None


def test_a_part_that_hangs_is_ended() -> None:
    def hangs() -> None:
        while True:
            with contextlib.suppress(Exception):  # as a library may
                torch.ones(10).sum()

    with at_most(0.05), pytest.raises(OverTime):
        hangs()


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    asked, given = [], bench()

    def work(batch: int) -> str:
        asked.append(batch)
        if batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return "done"

    assert device.halving(given, 32, work) == (8, "done")
    assert asked == [32, 16, 8]
    assert given.notes == [f"out of memory at batch {n}: measured at {n // 2}" for n in (32, 16)]

    def never(batch: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        device.halving(given, 4, never)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ...",
            "the NVIDIA driver is too old for this torch",
        ),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "it has no NVIDIA driver."),
        ("No CUDA GPUs are available", "torch finds no GPU on this machine."),
        ("CUDA error: no kernel image is available for execution on the device\nmore", "no code for this GPU"),
        ("CUDA error: out of memory\nCUDA kernel errors might be ...", "no memory left: nvidia-smi shows"),
        ("CUDA error: unknown error\nmore lines", "torch cannot use the GPU: CUDA error: unknown error."),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_sentence(
    error: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fails)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert script.main() == 3
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in str(hardware.unusable())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--vectors", "/nowhere"], "there is no folder /nowhere"),
        (["--parts", "truths"], "invalid choice: 'truths'"),
    ],
)
def test_bad_options(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit):
        script.main()
    assert told in capsys.readouterr().err


def test_operations_by_formula_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    described = model("SiT-S/2", tiny=False)
    with torch.device("meta"):
        module = described.module((4, 32, 32), 1000, null_noise=True)
    x, t, y = torch.ones(2, 4, 32, 32), torch.ones(2), torch.ones(2, dtype=torch.int64)
    with FlopCounterMode(display=False) as counted:
        module(x.to("meta"), t.to("meta"), y.to("meta"))
    assert 2 * flops(described, (4, 32, 32)) == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_a_card_s_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str) -> Callable[[str], dict[str, str]]:
        return lambda device: {"model": name}

    for name, wanted in (
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
    ):
        monkeypatch.setattr(device, "kind", named(name))
        assert device.peak("cuda", "bf16 + compile") == wanted
    monkeypatch.setattr(device, "kind", named("Another card"))
    assert device.peak("cuda", "bf16") is None


def test_the_random_inception_has_the_real_widths() -> None:
    assert {name: shape(name)[0] for name in ("Conv2d_1a_3x3", "Mixed_6c.branch7x7_1", "Mixed_7c.branch_pool")} == {
        "Conv2d_1a_3x3": 32,
        "Mixed_6c.branch7x7_1": 160,
        "Mixed_7c.branch_pool": 192,
    }
    assert len([shape(name) for name in _convolutions()]) == 94
    features, spatial = RandomInception("meta")(torch.ones(1, 3, 299, 299, device="meta"))
    assert (features.shape, spatial.shape) == ((1, 2048), (1, 192, 17, 17))
