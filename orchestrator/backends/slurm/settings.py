"""The keys of a site file of kind slurm."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from nag.registry import Int, method
from orchestrator.backends.site_values import (
    PER_NODE,
    Constraint,
    Count,
    Gres,
    Hosts,
    Licenses,
    Memory,
    Minutes,
    Name,
    Names,
    OnNode,
    Place,
    VisibleAfter,
    Word,
)
from orchestrator.backends.slurm.sbatch_options import extra_options
from orchestrator.tasks.task import stage_of


@dataclass(frozen=True)
class Resources:
    """What one array task of a stage requests. gpus, cpus and memory_gb are per node."""

    minutes: float
    memory_gb: float
    cpus: int
    gpus: int
    nodes: int = 1
    per_gpu: int = 1  # processes that share each GPU, each with bundles of its own


STAGES: dict[str, Resources] = {
    "encode": Resources(90, 16, 8, 1),
    "train": Resources(720, 32, 8, 1),
    "sample": Resources(90, 16, 4, 1),
    "measure": Resources(90, 16, 4, 1),
    "reference": Resources(90, 16, 4, 1),
    "extract": Resources(90, 16, 4, 1),
    "score": Resources(60, 16, 2, 0),
    "reconcile": Resources(20, 4, 1, 0),
}


@method
class Stage:
    """A site's settings for one stage; the defaults are in STAGES."""

    minutes: Minutes | None = None
    memory_gb: Memory | None = None
    cpus: Count | None = None
    gpus: Annotated[Int, Field(ge=0, le=64)] | None = None
    nodes: Count | None = None
    per_gpu: Annotated[Int, Field(ge=1, le=64)] | None = None


@method
class Stages:
    encode: Stage = Stage()
    train: Stage = Stage()
    sample: Stage = Stage()
    measure: Stage = Stage()
    reference: Stage = Stage()
    extract: Stage = Stage()
    score: Stage = Stage()
    reconcile: Stage = Stage()


@method
class OfNetwork:
    """More, or less, for the stages of some networks: those with more than `parameters_above` parameters; without it,
    the network of the sweep that has the entry's name.
    """

    parameters_above: Annotated[float, Field(ge=0)] | None = None
    train: Stage = Stage()
    sample: Stage = Stage()
    measure: Stage = Stage()
    extract: Stage = Stage()


@method
class SlurmSettings:
    """A Slurm cluster, seen from its login node."""

    partition: Names | None = None  # None: the cluster's default
    clusters: Names | None = None  # other clusters than that of the login node; several are one federation
    cpu_partition: Names | None = None  # for array tasks without a GPU; None: `partition`
    account: Name | None = None
    qos: Name | None = None
    constraint: Constraint | None = None
    gres: Gres = "gpu:{gpus}"
    setup: tuple[Word, ...] = ()
    container: tuple[Word, ...] = ()
    python: Word | None = None  # on the nodes; None: the one that runs nagbench
    env_file: Place | None = None
    group: Name | None = None  # of the people who share the store
    memory: Literal["per_node", "per_cpu", "per_gpu", "none"] = "per_node"  # how memory_gb is requested
    gpus: Literal["--gres", "--gpus", "--gpus-per-node", "--gpus-per-task"] = "--gres"
    exclude: Hosts | None = None
    reservation: Names | None = None
    nice: Annotated[Int, Field(ge=-2_147_483_645, le=2_147_483_645)] | None = None
    comment: Word | None = None
    mail_user: Name | None = None
    licenses: Licenses | None = None
    extra: tuple[Word, ...] = ()  # more options of sbatch: --name=value
    stages: Stages = Stages()
    networks: dict[str, OfNetwork] = dataclasses.field(default_factory=dict)
    target_minutes: Annotated[float, Field(gt=0, le=720)] = 30
    throttle: Count = 8
    max_submit: Annotated[Int, Field(ge=1)] | None = None
    scratch: OnNode | None = None
    mps: bool = False  # NVIDIA's MPS for stages with per_gpu, where the node has it
    reconcile: Literal["job", "manual"] = "job"
    poll_s: Annotated[float, Field(ge=0.1, le=60)] = 60
    folder: Place | None = None
    memory_gb_at_most: Memory | None = None
    generations_at_most: Annotated[Int, Field(ge=1, le=1000)] = 20
    signal_s: Annotated[Int, Field(ge=0, le=3600)] = 90
    lost_after_s: Annotated[float, Field(ge=1, le=86_400)] = 300  # without a trace in squeue, sacct and the store
    visible_after_s: VisibleAfter = 60
    stagger_s: Annotated[float, Field(ge=0, le=60)] = 0.5  # between the starts of neighbouring array tasks, up to 20

    def __post_init__(self) -> None:
        extra_options(self.extra)
        for where, stage, resources in self.all_resources():
            several = resources.gpus * resources.nodes if stage == "train" else resources.nodes
            if resources.per_gpu > 1 and several > 1:
                raise ValueError(
                    f"{where}.{stage}: per_gpu is {resources.per_gpu}, but it has {resources.nodes} x {resources.gpus} "
                    "GPUs that work on one task together"
                )
            if self.memory_gb_at_most is not None and resources.memory_gb > self.memory_gb_at_most:
                raise ValueError(
                    f"memory_gb_at_most is {self.memory_gb_at_most:g}, but {where}.{stage} has {resources.memory_gb:g}"
                )
            if stage == "sample" and resources.minutes <= self.target_minutes:
                raise ValueError(
                    f"target_minutes is {self.target_minutes:g}, but {where}.sample.minutes, the limit of an array "
                    f"task, is {resources.minutes:g}: Slurm would end array tasks before they reach the target"
                )

    def resources(self, stage: str, network: str = "", parameters: float | None = None) -> Resources:
        """What an array task of `train`, `sample`, ... of a network requests. A larger `parameters_above` goes before a
        smaller one, and a name before both. Raises KeyError for an unknown stage.
        """
        stage = stage_of(stage)
        layers = [
            getattr(self.stages, stage),
            *(getattr(each, stage, Stage()) for each in self._of(network, parameters)),
        ]
        given = [(key, value) for layer in layers for key, value in dataclasses.asdict(layer).items()]
        return dataclasses.replace(STAGES[stage], **{key: value for key, value in given if value is not None})

    def _of(self, network: str, parameters: float | None) -> list[OfNetwork]:
        sized = [each for each in self.networks.values() if each.parameters_above is not None]
        by_size = sorted(sized, key=lambda each: each.parameters_above or 0)
        fitting = [each for each in by_size if parameters is not None and parameters > (each.parameters_above or 0)]
        named = self.networks.get(network)
        return [*fitting, *([named] if named is not None and named.parameters_above is None else [])]

    def all_resources(self) -> Iterator[tuple[str, str, Resources]]:
        """The key of the file, the stage, and its resources, of all stages and all entries of `networks`."""
        yield from (("stages", stage, self.resources(stage)) for stage in STAGES)
        for name, each in self.networks.items():
            above = None if each.parameters_above is None else math.nextafter(each.parameters_above, math.inf)
            for stage in STAGES:
                if getattr(each, stage, Stage()) != Stage():
                    yield f"networks.{name}", stage, self.resources(stage, name, above)

    def trained_on(self, network: str = "", parameters: float | None = None) -> int:
        """How many processes train a network together, each on a GPU of its own if the stage requests any."""
        resources = self.resources("train", network, parameters)
        return max(1, resources.gpus) * resources.nodes

    def trained_words(self, network: str = "", parameters: float | None = None) -> str:
        """The setting of that number, for messages."""
        resources = self.resources("train", network, parameters)
        where = next(
            (f"networks.{n}" for n, e in self.networks.items() if e in self._of(network, parameters)), "stages"
        )
        return f"{where}.train has {resources.nodes} x {resources.gpus} GPUs"

    @property
    def writes_campaigns(self) -> bool:
        """Whether later jobs read the campaign from a file on the cluster."""
        return True

    def partition_of(self, gpus: int) -> str | None:
        return self.partition if gpus else self.cpu_partition or self.partition

    def gpu_option(self, gpus: int, nodes: int = 1, tasks: int = 1) -> dict[str, str]:
        """The sbatch option that requests `gpus` on each node, with `tasks` processes, if any."""
        if not gpus:
            return {}
        if self.gres == PER_NODE:
            return {"gpus-per-node": str(gpus)}
        count = {"--gpus": gpus * nodes, "--gpus-per-task": max(1, gpus // tasks)}.get(self.gpus, gpus)
        words = self.gres.format(gpus=count)
        return {self.gpus.removeprefix("--"): words if self.gpus == "--gres" else words.removeprefix("gpu:")}

    def memory_option(self, resources: Resources) -> dict[str, str]:
        """The sbatch option that requests memory, if any; in MB, as sbatch takes whole numbers only."""
        per = {"per_cpu": ("mem-per-cpu", resources.cpus), "per_gpu": ("mem-per-gpu", resources.gpus)}
        name, parts = per.get(self.memory, ("mem", 1))
        name, parts = (name, parts) if parts else ("mem", 1)  # a stage without GPUs
        return {} if self.memory == "none" else {name: f"{math.ceil(resources.memory_gb * 1024 / parts)}M"}

    @property
    def more_options(self) -> dict[str, str | bool]:
        """Options of sbatch that are the same for all jobs."""
        given = {"clusters": self.clusters, "reservation": self.reservation, "nice": self.nice, "comment": self.comment}
        given |= {"mail-user": self.mail_user, "licenses": self.licenses}
        return {key: str(value) for key, value in given.items() if value is not None} | extra_options(self.extra)

    @property
    def command(self) -> str:
        """Shell words that call Python on a node, in its container."""
        return shlex.join([*self.container, self.python or sys.executable])

    @property
    def script(self) -> list[str]:
        """The first lines of a batch script. env_file is read on the node, so the script holds no secrets of it."""
        if self.env_file is None:
            return list(self.setup)
        return [f"set -a; . {shlex.quote(os.path.expanduser(self.env_file))} || exit 3; set +a", *self.setup]
