"""The same numbers on this device as on the CPU

Every row states its bound. Vectors are of the official code; samples are one cell of CFG + NAG; `equal bits` is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.networks import GUIDANCES, PRECISIONS, field, filled
from nag.datasets.dataset import ArraySplit
from nag.field import NetworkField
from nag.finite import FiniteStates
from nag.interpolants import VP, Linear
from nag.metrics.frechet import Reference
from nag.metrics.moments import moments
from nag.metrics.neighbours import Points
from nag.metrics.pairs import between, within
from nag.models.dit import DiT
from nag.models.sit import SiT
from nag.noise import Noise, labels
from nag.numerics import Precision
from nag.registry import build
from nag.sampling import sample
from nag.training import Training, train

# Of float32 1e-4 relative: the tests' bound for the official numbers. bfloat16: nag.numerics. TF32 has 10 bits, as much
# as bfloat16's 7 and more, so the bound of bfloat16 holds for it.
BOUNDS = {"float32": 1e-4, "TF32": 5e-2, "bf16": 5e-2, "bf16 + compile": 5e-2, "float32 + compile": 1e-4}
SHAPE, CLASSES = (4, 16, 16), 10


def run(bench: Bench) -> None:
    checks: tuple[Callable[[Bench], None], ...] = (_again, _cpu, _vectors, _resumed, _not_finite, _metrics)
    checks += () if bench.tiny else (_cpu_compiled, _vectors_compiled)  # last: compiling takes most of the time
    for check in checks:
        if bench.left < 0:
            bench.note(f"no time was left for {check.__name__.strip('_')} and what follows")
            return
        check(bench)


def _row(bench: Bench, check: str, what: str, found: float, bound: float) -> None:
    bench.row(check=check, of=what, error=found, bound=bound, holds=bool(found <= bound))


def _small(bench: Bench, device: str) -> NetworkField:
    size = {"hidden": 32, "depth": 2} if bench.tiny else {"hidden": 384, "depth": 6}
    return field(SiT(**size, heads=4, patch=2), SHAPE, device, CLASSES)


def _cell(of: NetworkField, device: str, indices: np.ndarray, steps: int = 20) -> torch.Tensor:
    return sample(
        of,
        build("samplers", "euler_maruyama", steps=steps),
        noise=Noise(0, indices, of.shape, device),
        labels=labels(0, indices, of.num_classes),
        guidance=GUIDANCES["CFG + NAG"],
    ).cpu()


def _again(bench: Bench) -> None:
    """Twice on this device, and in halves."""
    indices = np.arange(8 if bench.tiny else 64)
    for name in ("float32", "bf16"):
        of = PRECISIONS[name].applied(_small(bench, bench.device))
        one, other = (_cell(of, bench.device, indices) for _ in range(2))
        _row(bench, "twice, equal bits", name, float((one - other).abs().max()), 0.0)
        halves = torch.cat([_cell(of, bench.device, half) for half in np.split(indices, 2)])
        _row(bench, "half the micro-batch", name, _relative(halves, one), 1e-5 if name == "float32" else 5e-2)


def _cpu(bench: Bench, compiled: bool = False) -> None:
    """Samples here against those of the CPU in float32."""
    indices = np.arange(4 if bench.tiny else 8)
    wanted = _cell(_small(bench, "cpu"), "cpu", indices)
    for name, precision in _precisions(compiled).items():
        if bench.left < 0:
            return
        found = _cell(precision.applied(_small(bench, bench.device)), bench.device, indices)
        bound = 2e-3 if name.startswith("float32") else 5e-2
        error = (found - wanted).abs().max() if bound == 2e-3 else (found - wanted).square().mean().sqrt()
        _row(bench, "samples against the CPU", name, float(error), bound)


def _cpu_compiled(bench: Bench) -> None:
    _cpu(bench, compiled=True)


def _precisions(compiled: bool) -> dict[str, Precision]:
    known = {**PRECISIONS, "float32 + compile": Precision(compile=True)}
    return {name: precision for name, precision in known.items() if precision.compile == compiled}


def _vectors(bench: Bench, compiled: bool = False) -> None:
    """The official code's forward passes and samples."""
    for family in ("sit", "dit"):
        path = bench.vectors / f"{family}.npz" if bench.vectors else None
        if path is None or not path.exists():
            bench.note(f"no {family}.npz: name the folder of the official vectors with --vectors")
            continue
        with np.load(path) as file:
            given = {name: torch.from_numpy(file[name]).to(bench.device) for name in file.files}
        for name, precision in _precisions(compiled).items():
            if bench.left < 0:
                return
            _official(bench, family, name, precision.applied(_with_weights(family, given, bench.device)), given)


def _vectors_compiled(bench: Bench) -> None:
    _vectors(bench, compiled=True)


def _with_weights(family: str, given: dict[str, torch.Tensor], device: str) -> NetworkField:
    model = (SiT if family == "sit" else DiT)(hidden=48, depth=2, heads=3, patch=4, learned_variance=True)
    module = model.module((4, 16, 16), 7, null_noise=False)
    module.load_state_dict({name[3:]: value.cpu() for name, value in given.items() if name.startswith("sd/")})
    path, predicts = (Linear(), "velocity") if family == "sit" else (VP(), "eps")
    return NetworkField(module.to(device), path, predicts, (4, 16, 16), 7, False, True)  # type: ignore[arg-type]


def _official(bench: Bench, family: str, name: str, of: NetworkField, given: dict[str, torch.Tensor]) -> None:
    if family == "sit":
        forward, sampler, draws, wanted = -of(given["x"], 1 - given["t"], given["y"]), "euler_maruyama", "sde", "sde_em"
    else:
        forward, sampler, draws, wanted = of(given["x"], (given["t"] + 1) / 1000, given["y"]), "ddpm", "ddpm", "ddpm"
    key = "sde_em_20_sigma_mean0.04" if wanted == "sde_em" else "ddpm_20"
    _row(bench, f"official {family} forward", name, _relative(forward, given["fwd"]), BOUNDS[name])
    noises = given[f"{draws}_noises"]
    x = sample(
        of,
        build("samplers", sampler, steps=20),
        noise=lambda k: noises[k - 1] if k else given["z"],
        labels=given["ys"],
    )
    _row(bench, f"official {family} {sampler}", name, _relative(x, given[key]), BOUNDS[name])


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _resumed(bench: Bench) -> None:
    """A training that is resumed from its third step ends in the same weights."""
    generator = np.random.default_rng(0)
    images = generator.normal(0, 0.5, (64, *SHAPE)).astype(np.float32)
    split = ArraySplit(images, generator.integers(0, CLASSES, 64))
    model = SiT(hidden=32, depth=2, heads=2, patch=2)
    for name in ("float32", "bf16"):
        training = Training(steps=6, batch=16, noise_dropout=0.15, precision=PRECISIONS[name])
        saved: list[Any] = []

        def trained(training: Training = training, saved: list[Any] = saved, **more: Any) -> dict[str, torch.Tensor]:
            module = filled(model.module(SHAPE, CLASSES, null_noise=True, seed=0))
            given = {"loss": model.loss(Linear(), "velocity"), "num_classes": CLASSES, "device": bench.device}
            return train(module, split, training, **given, **more)

        at = iter([False, False, True, False, False, False])
        whole = trained(due=lambda at=at: next(at), save=lambda step, state, saved=saved: saved.append(state))
        resumed = trained(resume=saved[0])
        worst = max(float((whole[key] - resumed[key]).abs().max()) for key in whole)
        _row(bench, "resumed training, equal bits", name, worst, 0.0)


def _not_finite(bench: Bench) -> None:
    """A network that is not finite below t = 0.5 is noticed and its step named, though answers are read in sixteens."""
    of = _small(bench, bench.device)

    class Breaks(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return of.module(x, t, y) / (t > 0.5).view(-1, 1, 1, 1)

    broken, finite, told = dataclasses.replace(of, module=Breaks()), FiniteStates(40, 16), ""
    y = torch.zeros(4, dtype=torch.int64, device=bench.device)
    try:
        build("samplers", "euler", steps=40)(broken, y, Noise(0, range(4), SHAPE, bench.device), observe=finite)
        finite.read()
    except FloatingPointError as error:
        told = str(error)
    named = "at step 21 of 40" in told  # the step from t = 0.5
    bench.row(check="NaN at the right step", of="float32", error=told or None, bound="at step 21 of 40", holds=named)


def _metrics(bench: Bench) -> None:
    """Fréchet distance, kernel distance and nearest neighbours in float64, here and on the CPU."""
    n, d = (300, 16) if bench.tiny else (5000, 512)
    generator = np.random.default_rng(0)
    x, r = generator.normal(0, 1, (n, d)), generator.normal(0.1, 1.1, (n, d))
    of_x, of_r = moments(x), moments(r)

    def distance(device: str) -> float:
        tensors = [torch.from_numpy(a).to(device) for a in (of_r.mean, of_r.cov, of_x.mean, of_x.cov)]
        return Reference(*tensors[:2]).distance(*tensors[2:])

    here, there = distance(bench.device), distance("cpu")
    _row(bench, "Fréchet distance", f"{n} x {d}", abs(here / there - 1), 1e-9)
    pairs = [[Points(rows, 0.0, device) for rows in (x, r)] for device in (bench.device, "cpu")]
    kernels = [between(a, b).kernels.cubic.cpu() for a, b in pairs]
    _row(bench, "kernel means (KID)", f"{n} x {d}", _relative(*kernels), 1e-9)
    near = [within(a).radii(3).cpu() for a, _ in pairs]
    _row(bench, "third neighbours", f"{n} x {d}", _relative(*near), 1e-9)
