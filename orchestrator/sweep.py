"""What a sweep is once its file is read: networks with their axes resolved, arms, and every cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from nag.noise_level import NoiseShift
from nag.registry import Int, method
from nag.training import Training
from orchestrator.params import Params


@dataclass(frozen=True)
class Network:
    """One instance of a network of the sweep: a value on each of its axes. `axes` are those values by parameter key."""

    name: str
    data: Any
    model: Any
    interpolant: Any
    predicts: str
    train: Training | None
    init: Network | None = None
    checkpoint: str | None = None
    family: str | None = None
    axes: Params = field(default_factory=dict)


@method
class Sample:
    """How many samples a cell has, in blocks of how many, and where their noise and labels come from."""

    count: Annotated[Int, Field(ge=1, le=100_000_000)] = 50_000
    block: Annotated[Int, Field(ge=1, le=1_000_000)] = 1_000
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    labels: Literal["uniform", "balanced"] = "uniform"


@dataclass(frozen=True)
class Score:
    features: tuple[Any, ...]
    metrics: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """`guidance` holds what is on, sorted by name; `params` is what reports show, a guidance that is off included."""

    arm: str
    network: Network
    guidance: tuple[Any, ...]
    sampler: Any
    sample: Sample
    params: Params


@dataclass(frozen=True)
class Arm:
    """`overrides`: the parameter keys that the arm decides itself, so that its partners may differ in them."""

    name: str
    against: str | None  # None: the first arm, the baseline of the others
    overrides: frozenset[str]
    line: int


@dataclass(frozen=True)
class Sweep:
    name: str
    path: str
    text: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    score: Score | None
    shared_axes: frozenset[str]  # parameter keys of the axes written outside `arms`
    measure: NoiseShift | None = None
    estimator: Network | None = None  # the network that `measure` names
