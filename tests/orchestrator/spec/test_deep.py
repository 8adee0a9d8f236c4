"""`check --deep` finds what only weights and data show, before anything is submitted, with a fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nag.checkpoint import dump_network
from nag.interpolants import Linear
from nag.models.dit import DiT
from nag.models.sit import SiT
from orchestrator.errors import BadInput
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import TINY, changed, nagbench

SWEEP = """\
name: deep
networks:
  net: {checkpoint: net.pt, family: FAMILY, heads: 2, data: {name: digits}}
sampler: {name: SAMPLER, steps: 4}
sample: {count: 20, block: 20}
arms:
  plain: {}
  guided: {GUIDANCE}
"""


def moved(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a network whose output is not zero, as that of a new one is."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.02 * torch.randn(weight.shape, generator=generator)
        for name, weight in module.state_dict().items()
        if name != "null_noise"
    }


def sit(shape: tuple[int, int, int] = (1, 8, 8)) -> dict[str, torch.Tensor]:
    return moved(SiT(hidden=16, depth=1, heads=2, patch=4).module(shape, 10, null_noise=False))


def dit() -> dict[str, torch.Tensor]:
    return moved(DiT(hidden=16, depth=1, heads=2, patch=4).module((1, 8, 8), 10, null_noise=False))


@pytest.fixture
def deep(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`deep(weights)`: exit code and output of `check --deep` for a sweep with that checkpoint."""

    def checked(
        weights: Any, family: str = "sit", sampler: str = "euler", guidance: str = "cfg: {scale: 1.5}"
    ) -> tuple[int, str]:
        if isinstance(weights, bytes):
            (tmp_path / "net.pt").write_bytes(weights)
        else:
            torch.save(weights, tmp_path / "net.pt")
        text = SWEEP.replace("FAMILY", family).replace("SAMPLER", sampler).replace("GUIDANCE", guidance)
        (tmp_path / "sweep.yaml").write_text(text)
        try:
            return 0, "\n".join(check_inputs(read_sweep(tmp_path / "sweep.yaml")))
        except BadInput as error:
            return error.exit_code, str(error)

    return checked


def test_good(deep: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, text = deep(sit())
    assert code == 0, text
    done = nagbench("check", "--deep", tmp_path / "sweep.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout
    assert "[1, 8, 8], 10 classes, predicts velocity, null class condition" in text
    assert "1,438 training and 359 held-out images" in text


EXTRACTOR = """\
from typing import ClassVar

import torch
from nag.registry import method


@method
class Mine:
    VERSION: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    trained: ClassVar[bool] = False

    def open(self, state=None, device="cpu"):
        return lambda images: {"features": images.float().flatten(1)}
"""
METRIC = """\
from typing import ClassVar

from nag.registry import method


@method
class Mine:
    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("mine",)
    lower_is_better: ClassVar[dict[str, bool]] = {"mine": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False

    def __call__(self, samples):
        return samples
"""


@pytest.mark.parametrize(
    ("code", "scorer", "words"),
    [
        (EXTRACTOR.replace("state=None, device", "device"), "features", "open is called as open(state, device), but "),
        (
            EXTRACTOR.replace("lambda images:", "lambda images, labels:"),
            "features",
            "score.features: Mine: TypeError: Mine.open.<locals>.<lambda>() missing 1 required positional",
        ),
        (
            EXTRACTOR.replace('{"features": images.float().flatten(1)}', "images"),
            "features",
            "of 2 images its function must return {features [2, d]}, but it returned",
        ),
        (EXTRACTOR.replace(".flatten(1)", ".flaten(1)"), "features", "mine.py:14: AttributeError: 'Tensor' object has"),
        (METRIC, "metrics", "__call__ is called as __call__(samples, reference), but "),
    ],
)
def test_own_code_of_a_wrong_signature_is_one_line(tmp_path: Path, code: str, scorer: str, words: str) -> None:
    listed = {"features": "pixels", "metrics": "fid"} | {scorer: "{use: ./mine.py:Mine}"}
    score = f"score: {{features: [{listed['features']}], metrics: [{listed['metrics']}]}}"
    text = changed(TINY, next(line for line in TINY.splitlines() if line.startswith("score:")), score)
    (tmp_path / "sweep.yaml").write_text(text)
    (tmp_path / "mine.py").write_text(code)
    assert nagbench("check", tmp_path / "sweep.yaml").returncode == 0  # it is only parsed
    done = nagbench("check", "--deep", tmp_path / "sweep.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/sweep.yaml:9: score.{scorer}"), done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_guidance_that_the_network_never_learned(deep: Callable[..., tuple[int, str]]) -> None:
    code, text = deep(sit(), guidance="nag: {scale: 1.0}")
    assert code == 2
    assert ":8: arms.guided.nag: 'nag' needs a network t" in text
    assert "fine-tune it first: {init: net, data: ..., train: {noise_dropout: 0.1, ...}}" in text
    assert "sweeps/nag_ready.yaml" in text


def test_another_shape_than_the_data(deep: Callable[..., tuple[int, str]]) -> None:
    code, text = deep(sit((4, 16, 16)))
    assert code == 2
    assert ":3: networks.net.data: its images are [1, 8, 8], the checkpoint's [4, 16, 16]" in text


def test_weights_that_are_nan(deep: Callable[..., tuple[int, str]]) -> None:
    weights = sit()
    weights["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")
    code, text = deep(weights)
    assert code == 2
    assert "blocks.0.mlp.fc1.weight" in text
    assert "not finite" in text


@pytest.mark.parametrize("own", [False, True])
def test_weights_that_are_finite_and_too_large(deep: Callable[..., tuple[int, str]], tmp_path: Path, own: bool) -> None:
    """Both as an official file and in nagbench's format, whose loading does not evaluate it."""
    weights = sit()
    weights["final_layer.linear.weight"].fill_(3e38)
    if not own:
        code, text = deep(weights)
    else:
        model = SiT(hidden=16, depth=1, heads=2, patch=4)
        known = {"shape": (1, 8, 8), "num_classes": 10, "has_null_noise": False, "has_null_class": True}
        data = dump_network(weights, model=model, interpolant=Linear(), predicts="velocity", **known)
        (tmp_path / "net.safetensors").write_bytes(data)
        text = SWEEP.replace("net.pt, family: FAMILY, heads: 2", "net.safetensors").replace("SAMPLER", "euler")
        (tmp_path / "sweep.yaml").write_text(text.replace("GUIDANCE", "cfg: {scale: 1.5}"))
        with pytest.raises(BadInput) as raised:
            list(check_inputs(read_sweep(tmp_path / "sweep.yaml")))
        code, text = raised.value.exit_code, str(raised.value)
    assert code == 2
    assert "sweep.yaml:" in text
    assert "is not finite, so its weights are damaged or too large" in text


def test_weights_that_are_missing_or_of_another_family(deep: Callable[..., tuple[int, str]]) -> None:
    weights = sit()
    del weights["final_layer.linear.bias"]
    code, text = deep(weights)
    assert code == 2
    assert "final_layer.linear.bias" in text
    code, text = deep({"layer1.weight": torch.zeros(3)})
    assert code == 2


class Payload:
    """Runs code if it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('/tmp/nagbench-was-here').touch()",))


def test_a_pickle_that_would_run_code(deep: Callable[..., tuple[int, str]]) -> None:
    trace = Path("/tmp/nagbench-was-here")
    trace.unlink(missing_ok=True)
    code, text = deep({"weights": Payload()})
    assert code == 2
    assert not trace.exists()
    assert "net.pt" in text


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_files_that_are_none(deep: Callable[..., tuple[int, str]], data: bytes) -> None:
    code, text = deep(data)
    assert code == 2
    assert "net.pt" in text


def test_a_sampler_that_does_not_fit(deep: Callable[..., tuple[int, str]]) -> None:
    """This is known without the weights."""
    code, text = deep(sit(), sampler="ddpm")
    assert code == 2
    assert "'ddpm' cannot sample network 'net'" in text
