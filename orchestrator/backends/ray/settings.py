"""The keys of a site file of kind ray."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from nag.registry import method
from orchestrator.backends.site_values import Amount, Count, Memory, Name, Place, Processes, VisibleAfter, Word, checked
from orchestrator.backends.slurm.settings import STAGES
from orchestrator.errors import unknown


@method
class RayWorker:
    """The resources that a worker holds while it lives. gpus: with less than 1, workers share a GPU; None is one GPU if
    the cluster has any. resources: custom resources of the cluster, by name.
    """

    gpus: Amount | None = None
    cpus: Amount = 1
    memory_gb: Memory | None = None
    gpu_type: Name | None = None  # as Ray calls it: A100, H100
    resources: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, amount in self.resources.items():
            if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
                raise ValueError(f"resources.{name}: expected a number above 0, got {amount!r}")
        if self.gpus is not None and self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus is {self.gpus:g}; expected a whole number, or a fraction of one GPU")


@method
class RaySettings(Processes):
    """A running Ray cluster. address: for `run` on one of its nodes. jobs: for `submit` from anywhere."""

    address: Annotated[str, checked(r"[A-Za-z0-9_.\[\]:-]+:\d{1,5}", "HOST:PORT, such as head:6379")] | None = None
    jobs: Annotated[str, checked(r"https?://\S+", "the address of Ray's Job API, such as http://head:8265")] | None = (
        None
    )
    token_file: Place | None = None
    worker: RayWorker = RayWorker()
    cpu_worker: RayWorker = RayWorker()
    cpu_stages: tuple[Word, ...] = ("reference", "score")  # done by workers that see no GPU
    processes: Count = 1  # that train one network together, on any nodes, each with the resources of `worker`
    workers: Count | None = None  # limit for those with a GPU, and for those without; None: as many as fit
    memory_gb_at_most: Memory | None = None
    visible_after_s: VisibleAfter = 60
    wait_s: Annotated[float, Field(ge=0, le=3600)] = 45  # for a node that can hold a worker, before it is an error
    stalled_after_s: Annotated[float, Field(ge=1, le=86_400)] = (
        600  # a bundle of a worker that does nothing is done anew
    )
    python: Word | None = None  # with the cluster's Ray; for `run` this one by default, for a job the head node's

    def __post_init__(self) -> None:
        for stage in self.cpu_stages:
            if stage not in STAGES:
                raise ValueError(f"cpu_stages: {unknown('stage', stage, STAGES)}")
        if self.cpu_worker.gpus or self.cpu_worker.gpu_type:
            raise ValueError("cpu_worker cannot have a GPU; leave stages that need one out of cpu_stages")
        if self.processes > 1 and 0 < (self.worker.gpus or 0) < 1:
            raise ValueError(f"processes is {self.processes}; each needs a GPU of its own, but worker.gpus is below 1")
