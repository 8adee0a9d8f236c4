"""The price of every guidance method at a realistic size, in evaluations of the network: a table in Markdown.

    .venv/bin/python -m benchmarks.guidance --size S/4     or --size digits, the tiny network of the sweeps on digits

"cost" is the CPU time of a guided call over that of as many evaluations of the network as it makes: the median over
rounds in which both have a turn, and the middle half of the rounds. "own" is the time of the same call when the network
costs nothing, and "share" what it adds to those evaluations. Bound: 1.02 at batch 16 and more.
noise_level_correction also evaluates its small network, which NFE does not count. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # as a worker

import torch

from nag.estimator import Residual
from nag.field import Calls, NetworkField, everywhere
from nag.interpolants import Linear
from nag.models.noise_level_residual import NoiseLevelResidual
from nag.models.sit import SiT
from nag.models.sizes import SIZES
from nag.noise import Noise
from nag.registry import METHODS, build
from nag.sampling import guided

LEVEL = 0.5
DIGITS = "digits"
LAYERS = (2, 3)
SETTINGS: dict[str, dict[str, Any]] = {
    "cfg": {"scale": 1.5},
    "nag": {"scale": 1.0},
    "autoguidance": {"scale": 2.0, "reference": "other"},
    "dog": {"scale": 1.5, "reference": "other"},
    "self_guidance": {"scale": 3.0},
    "tsg": {"scale": 2.5},
    "icg": {"scale": 1.4},
    "apg": {"scale": 4.0, "norm": 5.0},
    "cfg_zero": {"scale": 2.0},
    "cfgpp": {"scale": 0.6},
    "skip_layer": {"scale": 2.0, "layers": LAYERS},
    "pag": {"scale": 2.0, "layers": LAYERS},
    "seg": {"scale": 2.0, "layers": LAYERS},
    "epsilon_scaling": {"b": 1.01},
    "time_shift": {"window": 0.1, "cutoff": 0.2},
    "noise_level_correction": {"scale": 1.0, "reference": "small"},
}
WITH = {"rescale": ({"phi": 0.7}, "cfg")}  # what needs other guidance
LEFT_OUT = {"nag_classifier": "its gradient is a backward pass of the estimator"}


class Free(torch.nn.Module):
    """A network that costs nothing."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.depth, self.hidden = getattr(module, "depth", 0), getattr(module, "hidden", 0)

    def forward(self, x: torch.Tensor, *conditions: Any) -> torch.Tensor:
        return x if len(conditions) > 1 else torch.zeros(len(x), 1)  # the residual has no class


def networks(size: str) -> dict[str, Any]:
    """The guided one, a reference and a small residual network, with random weights also where training starts at 0."""
    if size == DIGITS:
        model, shape, classes = SiT(hidden=64, depth=4, heads=4, patch=2), (1, 8, 8), 10
        small = NoiseLevelResidual(hidden=32, depth=2, heads=2, patch=2)
    else:
        model, shape, classes = SiT(**SIZES[size]), (4, 32, 32), 1000
        small = NoiseLevelResidual(hidden=96, depth=4, heads=4, patch=4)
    made = {name: model.module(shape, classes, True, seed) for seed, name in enumerate(("own", "other"))}
    made["small"] = small.module(shape, classes, False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (weight for module in made.values() for weight in module.parameters()):
            if not weight.any():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    fields = {n: NetworkField(m.eval(), Linear(), "velocity", shape, classes, True, True) for n, m in made.items()}
    return {**fields, "small": Residual(made["small"].eval(), Linear(), shape)}


def methods(name: str) -> tuple[Any, ...]:
    if name in WITH:
        fields, other = WITH[name]
        return build("guidance", name, **fields), build("guidance", other, **SETTINGS[other])
    return (build("guidance", name, **SETTINGS[name]),)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


class Priced:
    """A method's guided call over one batch, and the calls of networks that it makes."""

    def __init__(self, name: str, own: dict[str, Any], batch: int) -> None:
        noise = Noise(0, range(batch), own["own"].shape)
        self.x, self.y = noise(0), torch.arange(batch) % own["own"].num_classes
        self.t = everywhere(LEVEL, self.x)  # as a sampler
        calls = Calls()
        for networks, run in ((own, True), ({k: calls.counted(v) for k, v in own.items()}, False)):
            field = guided(networks["own"], methods(name), networks).begin(noise, [LEVEL])  # type: ignore[attr-defined]
            if run:
                self.field = field
        field(self.x, self.t, self.y)
        self.evaluations = calls.made // batch

    def guided(self) -> None:
        self.field(self.x, self.t, self.y)

    def plainly(self, network: Any) -> None:
        for _ in range(self.evaluations):
            network(self.x, self.t, self.y)


def row(name: str, real: dict[str, Any], free: dict[str, Any], batch: int, rounds: int) -> str:
    priced, own = Priced(name, real, batch), Priced(name, free, batch)
    plain = partial(priced.plainly, real["own"])
    pairs = []
    for number in range(rounds):
        works = (plain, priced.guided) if number % 2 else (priced.guided, plain)
        took = [seconds(work) for work in works]
        pairs.append(tuple(took if number % 2 else took[::-1]))
    ratios = sorted(b / a for a, b in pairs)
    evaluation = statistics.median(a for a, _ in pairs)
    beside = statistics.median(seconds(own.guided) for _ in range(200)) - statistics.median(
        seconds(partial(own.plainly, free["own"])) for _ in range(200)
    )
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    cost = f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
    return f"| `{name}` | {priced.evaluations} | {cost} | {1e3 * beside:.2f} ms | {100 * beside / evaluation:.2f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S/4", choices=[*sorted(SIZES), DIGITS])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("methods", nargs="*", default=[n for n in METHODS["guidance"] if n not in LEFT_OUT])
    options = parser.parse_args()
    torch.set_num_threads(1)
    real = networks(options.size)
    free = {name: dataclasses.replace(each, module=Free(each.module)) for name, each in real.items()}
    print(f"SiT-{options.size} on {real['own'].shape}, batch {options.batch}, one thread")
    print("| method | evaluations | cost | own | share |\n|---|---|---|---|---|")
    for name in options.methods:
        print(row(name, real, free, options.batch, options.rounds), flush=True)


if __name__ == "__main__":
    main()
