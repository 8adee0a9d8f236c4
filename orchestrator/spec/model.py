"""A sweep after its file is read: networks with their axes resolved, arms and cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from nag.effective_scale import EffectiveScale
from nag.models.description import Role, role
from nag.noise_shift import NoiseShift
from nag.numerics import Precision
from nag.registry import Int, method
from nag.training import Training
from orchestrator.spec.grid import Pick
from orchestrator.spec.overrides import options
from orchestrator.spec.parameters import Params
from orchestrator.spec.user_code import Code


@dataclass(frozen=True)
class Network:
    """One instance of a network of the sweep: one value per axis. `axes`: those values by parameter key; `picks`: the
    places of the tuned ones.

    It is trained (`data`, `model`, `train`), fine-tuned from another (`init`) or loaded (`checkpoint`). `model` is None
    for a checkpoint without a description that is not on this machine, and for networks fine-tuned from it. With an
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
    family: str | None = None  # of a checkpoint without a description
    given: Mapping[str, Any] = field(default_factory=dict)  # key, heads, shape, num_classes of such a checkpoint
    states: tuple[int, int, int] | None = None  # that its checkpoint says
    layout: str = ""  # how its checkpoint was saved, in words
    convention: Any = None  # of a module of other code: nag.models.convention.Convention
    num_classes: int | None = None  # of a checkpoint of other code
    learned: frozenset[str] | None = frozenset()  # null conditions; None if only its weights show them
    axes: Params = field(default_factory=dict)
    picks: Mapping[str, Pick] = field(default_factory=dict)

    @property
    def generates(self) -> bool:
        return self.role == "generator"

    @property
    def role(self) -> Role:
        """What it is for."""
        return role(self.model)

    @property
    def stores(self) -> str:
        """Kind of its samples: pixels or latents."""
        return "latents" if self.autoencoder is not None or self.data is None else self.data.stores

    @cached_property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of its states, as its data, looked at once, or its checkpoint say; None if it depends on missing
        files. Raises ValueError for images that the autoencoder cannot encode.
        """
        if self.data is None:
            return self.states
        try:
            shape = self.data.shape
            return shape if shape is None or self.autoencoder is None else self.autoencoder.latent_shape(shape)
        except OSError:
            return None

    @cached_property
    def classes(self) -> int | None:
        """Number of classes of its samples, by its checkpoint or else by its data, which are looked at once for all
        cells; None if neither is known on this machine.
        """
        if self.num_classes is not None or self.data is None:
            return self.num_classes
        try:
            return int(self.data.num_classes)
        except (OSError, ValueError, AttributeError):  # not on this machine, or only parsed
            return None

    @property
    def lineage(self) -> tuple[Network, ...]:
        """The network, then its ancestors: those that it was fine-tuned from, the nearest first."""
        return (self, *self.init.lineage) if self.init else (self,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds of this network and its ancestors; a checkpoint has none."""
        return tuple(network.train.seed for network in self.lineage if network.train is not None)

    @property
    def params(self) -> Params:
        """Its values on its axes, and those of its ancestors under `NAME.`, except of data that it goes on with."""
        inherited = {
            f"{n.name}.{key}": value
            for n in self.lineage[1:]
            for key, value in n.axes.items()
            if not (key.split(".")[0] == "data" and n.data is self.data and key in self.axes)
        }
        return {**self.axes, **inherited}

    @property
    def tuned(self) -> dict[str, Pick]:
        """The tuned values among its `params`."""
        return {**self.picks, **{f"{n.name}.{key}": pick for n in self.lineage[1:] for key, pick in n.picks.items()}}


BLOCKS_AT_MOST = 100_000  # of a stream: each is a file, and larger folders are slow to list on any file system


@method
class Sample:
    """Number of samples of a cell, samples per block, seed of noise and labels, label rule.

    count: samples of each cell; a higher one keeps those that are there. block: samples in one file, the unit of work.
    seed: of noise and labels, equal for all cells of one training seed. labels: uniform draws each sample's class,
    balanced gives all classes equally often.
    """

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


KEEP = ("samples", "features", "influence", "scores")  # what a scored cell keeps; each keeps less than the one before
REFERENCE_ROWS = 50_000


@dataclass(frozen=True)
class ScoreSection:
    """reference: a data set or a Published file; None: the training split of the network's data. rows: at most so many
    reference images are compared one by one; means and covariances use all. protocol: the evaluator (evaluators.py)
    that is followed.
    """

    features: tuple[Any, ...]
    metrics: tuple[Any, ...]
    reference: Any = None
    decode: Any = None  # the autoencoder that decodes latents
    rows: int = REFERENCE_ROWS
    protocol: Any = None

    @property
    def reference_images(self) -> int | None:
        """The most images of the reference that count; None for all."""
        return self.protocol.reference_images if self.protocol is not None else None


@method
class Tune:
    """How `{tune: ...}` values are chosen: by `metric` (a reported name), on the first `count` samples of streams with
    this seed. candidates: how many combinations are tried in each arm, some spread over all, the rest near the best;
    None tries all combinations of lists and of coarse values of ranges, then finer values near the best. seed: another
    than the comparison's.
    """

    metric: str = ""  # the first metric
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 1
    count: Annotated[Int, Field(ge=2, le=100_000_000)] = 5_000
    candidates: Annotated[Int, Field(ge=2, le=1_000)] | None = None


MARGIN = 0.013  # gaps below it decide nothing: retraining moves FID by 1 to 2 % (arXiv 2606.20536)


@dataclass(frozen=True)
class Compare:
    """Rules of a verdict. margin: arms that differ by less are alike; a share of the baseline's value if `relative`,
    else in the metric's unit. agree: reported names; an arm is only better if none of them is worse.
    """

    margin: float = MARGIN
    relative: bool = True
    agree: tuple[str, ...] = ()


Measure = NoiseShift | EffectiveScale


@dataclass(frozen=True)
class Cell:
    """`guidance`: the methods that are on, sorted by name. `params`: for reports; they include guidance that is off.
    `tuned`: those of them that are to be chosen; then the cell is a candidate.
    """

    arm: str
    network: Network
    guidance: tuple[Any, ...]
    sampler: Any
    sample: Sample
    params: Params
    references: Mapping[str, Network] = field(default_factory=dict)  # networks that the guidance names
    compose: str = "sum"
    tuned: Mapping[str, Pick] = field(default_factory=dict)
    matches: str | None = None  # the arm whose effective scale is the scale of its CFG


def networks_of(cells: Iterable[Cell], estimator: Network | None) -> tuple[Network, ...]:
    """The networks that cells and a measurement need, with all that they were made from, each once."""
    roots = [network for cell in cells for network in (cell.network, *cell.references.values())]
    roots += [estimator] if estimator else []
    return tuple({id(network): network for root in roots for network in root.lineage}.values())


@dataclass(frozen=True)
class Arm:
    """`overrides`: parameter keys that the arm sets itself; the cells of its baseline may differ in them."""

    name: str
    against: str | None  # None: the first arm, the baseline of the others
    overrides: frozenset[str]
    line: int


@dataclass(frozen=True)
class PaperRow:
    """Published values of one setting, by metric: its arm, and the parameters that distinguish it."""

    arm: str
    params: Params
    values: Mapping[str, float]
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def is_of(self, arm: str, params: Params) -> bool:
        return arm == self.arm and all(params.get(key) == value for key, value in self.params.items())


@dataclass(frozen=True)
class Paper:
    """Published numbers (paper_values.py). tolerance: by metric, the largest difference that confirms a value."""

    source: str
    protocol: str
    count: int
    rows: tuple[PaperRow, ...]
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def allowed(self, row: PaperRow, metric: str) -> float | None:
        return {**self.tolerance, **row.tolerance}.get(metric)


@dataclass(frozen=True, kw_only=True)
class StoredSweep:
    """The part of a sweep that the store keeps in addition to the tasks and cells of its plan; reports need no more."""

    name: str
    text: str  # the YAML, with a comment for each of `overrides`
    arms: tuple[Arm, ...]
    shared_axes: frozenset[str]  # parameter keys of the axes written outside `arms`
    guidance: frozenset[str]  # the first parts of parameter keys that belong to a guidance
    path: str = ""  # the file, or what the user named instead
    precision: Precision = field(default_factory=Precision)
    keep: str = "samples"
    paper: Paper | None = None
    tune: Tune | None = None
    compare: Compare = field(default_factory=Compare)
    overrides: tuple[str, ...] = ()  # values that the command line gave in place of the file's
    protocol: str | None = None  # the evaluator that the score section names

    @property
    def argument(self) -> str:
        """What commands take to show or continue it: the name in the store."""
        return self.path

    def is_guidance(self, key: str) -> bool:
        """Whether a parameter belongs to a guidance."""
        return key.partition(".")[0] in self.guidance


@dataclass(frozen=True, kw_only=True)
class Sweep(StoredSweep):
    """A sweep as its file describes it."""

    cells: tuple[Cell, ...]
    score: ScoreSection | None
    measures: tuple[Measure, ...] = ()
    estimator: Network | None = None  # the network that the noise shift is measured with
    code: Mapping[str, Code] = field(default_factory=dict)  # the user's own, by digest

    @property
    def argument(self) -> str:
        """What commands take to read it again: the file, with what the command line gave in place of its values."""
        return " ".join(filter(None, (self.path, options(self.overrides))))
