"""What a sweep is once its file is read: networks with their axes resolved, arms, and every cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from nag.noise_shift import NoiseShift
from nag.numerics import Precision
from nag.registry import Int, method
from nag.training import Training
from orchestrator.spec.parameters import Params
from orchestrator.spec.user_code import Code


@dataclass(frozen=True)
class Network:
    """One instance of a network of the sweep: a value on each of its axes. `axes` are those values by parameter key.

    Trained here (`data`, `model`, `train`), made from another (`init`), or loaded (`checkpoint`). The model of a
    checkpoint that does not describe itself is None, and so is that of what is made from it: its weights tell. With an
    `autoencoder` its states are latents of the images of `data`.
    """

    name: str
    data: Any
    model: Any
    interpolant: Any
    predicts: str
    train: Training | None
    init: Network | None = None
    autoencoder: Any = None
    checkpoint: str | None = None  # path
    family: str | None = None  # of a checkpoint that does not describe itself
    heads: int | None = None
    learned: frozenset[str] | None = frozenset()  # null conditions that it knows; None where only its weights tell
    axes: Params = field(default_factory=dict)

    @property
    def generates(self) -> bool:
        return self.model is None or self.model.generates

    @property
    def stores(self) -> str:
        """What its samples are: pixels or latents."""
        return "latents" if self.autoencoder is not None or self.data is None else self.data.stores

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of its states; None where that is not known without weights or files that are elsewhere. Raises
        ValueError for images that the autoencoder cannot take.
        """
        try:
            shape = None if self.data is None else self.data.shape
            return shape if shape is None or self.autoencoder is None else self.autoencoder.latent_shape(shape)
        except OSError:
            return None

    @property
    def line(self) -> tuple[Network, ...]:
        """The network and what it was made from, itself first."""
        return (self, *self.init.line) if self.init else (self,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds along its line, its own first; none of a checkpoint."""
        return tuple(network.train.seed for network in self.line if network.train is not None)

    @property
    def params(self) -> Params:
        """The values on its axes, and under `NAME.` those of the networks that it was made from."""
        inherited = {f"{n.name}.{key}": value for n in self.line[1:] for key, value in n.axes.items()}
        return {**self.axes, **inherited}


BLOCKS_AT_MOST = 100_000  # of a stream: each is a file, and a folder of more is slow to list on any file system


@method
class Sample:
    """How many samples a cell has, in blocks of how many, and where their noise and labels come from."""

    count: Annotated[Int, Field(ge=1, le=100_000_000)] = 50_000
    block: Annotated[Int, Field(ge=1, le=1_000_000)] = 1_000
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    labels: Literal["uniform", "balanced"] = "uniform"

    def __post_init__(self) -> None:
        if (blocks := -(-self.count // self.block)) > BLOCKS_AT_MOST:
            raise ValueError(
                f"count {self.count:,} in blocks of {self.block:,} are {blocks:,} files; at most {BLOCKS_AT_MOST:,} "
                f"are allowed. Raise block to {-(-self.count // BLOCKS_AT_MOST):,} or more"
            )


KEEP = ("samples", "features", "influence", "scores")  # what stays of a scored cell, each less than the one before
REFERENCE_ROWS = 50_000


@dataclass(frozen=True)
class Score:
    """reference: what samples are held against, a data set or a Published file; None for the training split of the
    network's data. rows: at most so many reference images are compared one by one; means and covariances are of all.
    """

    features: tuple[Any, ...]
    metrics: tuple[Any, ...]
    reference: Any = None
    decode: Any = None  # the autoencoder that makes images of latents
    rows: int = REFERENCE_ROWS


@dataclass(frozen=True)
class Cell:
    """`guidance` holds what is on, sorted by name; `params` is what reports show, a guidance that is off included."""

    arm: str
    network: Network
    guidance: tuple[Any, ...]
    sampler: Any
    sample: Sample
    params: Params
    references: Mapping[str, Network] = field(default_factory=dict)  # those that the guidance names
    compose: str = "sum"


@dataclass(frozen=True)
class Arm:
    """`overrides`: the parameter keys that the arm decides itself, so that its partners may differ in them."""

    name: str
    against: str | None  # None: the first arm, the baseline of the others
    overrides: frozenset[str]
    line: int


@dataclass(frozen=True)
class PaperRow:
    """What was published of one setting: the arm, the parameters that tell it from others, values by metric."""

    arm: str
    params: Params
    values: Mapping[str, float]
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def is_of(self, arm: str, params: Params) -> bool:
        return arm == self.arm and all(params.get(key) == value for key, value in self.params.items())


@dataclass(frozen=True)
class Paper:
    """Published numbers (paper_values.py). tolerance: by metric, how far off ours may be to confirm them."""

    source: str
    protocol: str
    count: int
    rows: tuple[PaperRow, ...]
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def allowed(self, row: PaperRow, metric: str) -> float | None:
        return {**self.tolerance, **row.tolerance}.get(metric)


@dataclass(frozen=True, kw_only=True)
class StoredSweep:
    """What the store keeps of a sweep, beside the tasks and cells of its plan: all that reports need of it."""

    name: str
    text: str  # the YAML
    arms: tuple[Arm, ...]
    shared_axes: frozenset[str]  # parameter keys of the axes written outside `arms`
    guidance: frozenset[str]  # the names under which parameters are those of a guidance
    path: str = ""  # the file, or what the user named instead
    precision: Precision = field(default_factory=Precision)
    keep: str = "samples"
    paper: Paper | None = None

    def is_guidance(self, key: str) -> bool:
        """Whether a parameter is that of a guidance."""
        return key.partition(".")[0] in self.guidance


@dataclass(frozen=True, kw_only=True)
class Sweep(StoredSweep):
    """A sweep as its file says it."""

    cells: tuple[Cell, ...]
    score: Score | None
    measure: NoiseShift | None = None
    estimator: Network | None = None  # the network that `measure` names
    code: Mapping[str, Code] = field(default_factory=dict)  # the user's own, by digest
