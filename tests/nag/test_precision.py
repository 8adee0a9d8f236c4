"""What Precision says of itself: how far samples are from those in float32."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nag.datasets.digits import Digits
from nag.estimator import Estimator
from nag.field import NetworkField
from nag.models.sit import SiT
from nag.noise import Noise, labels
from nag.numerics import NEWER, Precision, arithmetic, exact, same_bits
from nag.registry import build
from nag.sampling import sample
from nag.training import Training, train


def field() -> NetworkField:
    """A network whose output is not zero, as that of a new one is."""
    module = SiT(hidden=32, depth=2, heads=2, patch=2).module((1, 8, 8), 10, null_noise=True, seed=1)
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if name.startswith("final_layer") or "adaLN" in name:
            weight.data.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return NetworkField(module.eval(), build("interpolants", "linear"), "velocity", (1, 8, 8), 10, True, True)


def samples(precision: Precision) -> torch.Tensor:
    indices = np.arange(16)
    return sample(
        precision.applied(field()),
        build("samplers", "heun", steps=8),
        noise=Noise(0, indices, (1, 8, 8)),
        labels=labels(0, indices, 10),
        guidance=(build("guidance", "cfg", scale=1.5), build("guidance", "nag", scale=1.0)),
    )


def test_float32_is_the_field_itself() -> None:
    plain = field()
    assert Precision().applied(plain) is plain


def test_bfloat16() -> None:
    difference = samples(Precision(dtype="bfloat16")) - samples(Precision())
    assert difference.dtype == torch.float32
    assert 1e-6 < float(difference.square().mean().sqrt()) < 5e-2


def test_weights_are_rounded_once_to_the_same_bits() -> None:
    """Those that only enter products; embeddings, positions and the caller's own module stay float32."""
    plain, precision = field(), Precision(dtype="bfloat16")
    applied = precision.applied(plain)
    dtypes = {name: weight.dtype for name, weight in applied.module.state_dict().items()}
    assert dtypes["blocks.0.attn.qkv.weight"] == dtypes["x_embedder.proj.bias"] == torch.bfloat16
    assert dtypes["y_embedder.embedding_table.weight"] == dtypes["null_noise"] == dtypes["pos_embed"] == torch.float32
    assert {weight.dtype for weight in plain.module.state_dict().values()} == {torch.float32}
    each_time = dataclasses.replace(plain, precision=precision)  # autocast rounds at every call
    x, t, y = Noise(0, range(6), (1, 8, 8))(0), torch.tensor([0.1, 0.5, 1.0, -1.0, 0.9, 0.3]), torch.arange(6) + 5
    assert torch.equal(applied(x, t, y), each_time(x, t, y))
    assert not torch.equal(applied(x, t, y), plain(x, t, y))


@pytest.mark.outside
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")
def test_compile() -> None:
    assert float((samples(Precision(compile=True)) - samples(Precision())).abs().max()) < 1e-4


@pytest.mark.parametrize("strict", [True, False])
def test_sums_have_an_order_on_a_gpu_only_within(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's flags and the variable that cuBLAS reads, also after an error; a CPU's sums have one anyway."""
    monkeypatch.setattr(os, "environ", {})

    def deterministic() -> tuple[bool, bool, bool]:
        filled: Any = torch.utils.deterministic
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warns, filled.fill_uninitialized_memory

    before = deterministic()
    with same_bits("cpu", strict):
        assert deterministic() == before
    with contextlib.suppress(ZeroDivisionError), same_bits("cuda", strict):
        assert deterministic() == (True, not strict, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise ZeroDivisionError
    assert deterministic() == before


def test_blocks_are_compiled_for_all_with_the_module_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to torch's operators; a module without blocks is compiled whole."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    plain = field()
    x, t, y = Noise(0, range(6), (1, 8, 8))(0), torch.full((6,), 0.5), torch.arange(6)
    compiled = Precision(compile=True).applied(plain)
    assert torch.allclose(compiled(x, t, y), plain(x, t, y), atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # of two blocks
    assert [type(block).__name__ for block in plain.module.blocks] == ["Block", "Block"]  # type: ignore[union-attr]
    assert type(compiled.module).__name__ == "Transformer"
    whole = Precision(compile=True).applied(dataclasses.replace(plain, module=torch.nn.Identity()))
    assert type(whole.module).__name__ == "OptimizedModule"


class Watching(torch.nn.Module):
    """Says what torch's flags are where its forward pass runs; has a weight to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[tuple[Any, ...]] = []
        self.register_full_backward_hook(lambda *_: self.seen.append((*flags()[:-1], False)))

    def forward(self, x: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        self.seen.append(flags())
        return x * self.weight


def flags() -> tuple[Any, ...]:
    """TF32 of products and convolutions, how the CPU computes products, cuDNN's search, autocast."""
    backends = torch.backends
    newer = getattr(getattr(backends.mkldnn, "matmul", None), "fp32_precision", "ieee")
    allowed = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    return *allowed, newer, backends.cudnn.benchmark, torch.is_autocast_enabled("cpu")


EXACT, TF32 = (False, False, "ieee", False, False), (True, True, "ieee", False, False)
BFLOAT16 = (*EXACT[:-1], True)


def older() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def medium() -> None:
    torch.set_float32_matmul_precision("medium")


def newer() -> None:
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has the older flags only")
    torch.backends.fp32_precision = "tf32"


@pytest.fixture
def _as_before() -> Iterator[None]:
    with arithmetic():
        yield  # so that what a test leaves is taken back
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("left", [older, medium, newer])
def test_nobody_inherits_what_another_left(left: Callable[[], None]) -> None:
    """Networks that take turns, and whatever a file of the user's own has set between them."""
    linear, x, t, y = build("interpolants", "linear"), torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.zeros(2).long()

    def made(precision: Precision) -> NetworkField:
        return precision.applied(NetworkField(Watching(), linear, "velocity", (1, 8, 8), 10, False, False))

    plain, fast, half = made(Precision()), made(Precision(tf32=True)), made(Precision(dtype="bfloat16"))
    for _ in range(2):
        for network, wanted in ((fast, TF32), (plain, EXACT), (half, BFLOAT16), (plain, EXACT)):
            left()
            with torch.autocast("cpu", torch.bfloat16):
                assert network(x, t, y).dtype == torch.float32
            assert network.module.seen.pop() == wanted
    estimator = Estimator(Watching(), linear, (1, 8, 8))
    for call in (lambda: estimator(torch.zeros(2, 5)), lambda: estimator.gradient(torch.zeros(2, 5), torch.zeros(2))):
        left()
        call()
        assert estimator.module.seen.pop() == EXACT
    left()
    assert exact(lambda: flags(), "cpu")() == EXACT


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(
    ("precision", "forward"),
    [(Precision(), EXACT), (Precision(tf32=True), TF32), (Precision(dtype="bfloat16"), BFLOAT16)],
)
def test_a_training_has_its_own(precision: Precision, forward: tuple[Any, ...]) -> None:
    """Forward and backward, in every step."""
    data, module = Digits(), Watching()
    training = Training(steps=2, batch=4, precision=precision)

    def loss(called: torch.nn.Module, batch: Any) -> torch.Tensor:
        return called(batch.x0.requires_grad_()).square().mean()

    older()
    train(module, data.open("train"), training, loss=loss, num_classes=10, report=lambda *told: older())
    backward = (*forward[:-1], False)
    assert module.seen[0] == forward
    assert {seen[:3] for seen in module.seen} == {backward[:3]}
    assert len(module.seen) == 4


def test_flags_are_afterwards_as_they_were() -> None:
    def everything() -> tuple[Any, ...]:
        found = [*flags(), torch.get_float32_matmul_precision()]
        for name in NEWER:
            value: Any = torch.backends
            for part in name.split("."):
                value = getattr(value, part, None)
            found.append(value)
        return tuple(found)

    before = everything()
    for options in ({}, {"tf32": True}, {"dtype": "bfloat16"}):
        with arithmetic("cpu", **options), arithmetic("cpu"):
            older()
        assert everything() == before
    with pytest.raises(ZeroDivisionError), arithmetic("cpu", tf32=True):
        _ = 1 / 0
    assert everything() == before
