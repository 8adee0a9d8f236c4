"""Context: what a task runs with. `run` does a task, `finish` publishes a small one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.identity import digest
from orchestrator.store.layout import block_name, file_name
from orchestrator.tasks.outputs import read_output
from orchestrator.tasks.task import kind_of, shards
from orchestrator.tasks.used import used

if TYPE_CHECKING:
    from nag.estimator import Estimator, Residual
    from nag.field import Field
    from nag.numerics import Precision
    from orchestrator.store.store import Store
    from orchestrator.tasks.task import Task


@dataclass(frozen=True)
class Options:
    """Options of a worker; none changes a result beyond rounding."""

    device: str = "cpu"
    micro_batch: int = 256  # samples, or images of a training, in the network at once, on each device
    checkpoint_s: float = 30.0  # between checkpoints of a training
    processes: int = 1  # that train one network together; on Slurm the job says how many
    visible_after_s: float = 0.0  # for how long a file that another machine has written may be hidden from this one
    recompute: bool = False  # activation checkpointing in trainings: less memory, a third more work

    def here(self) -> Options:
        """These options with `auto` replaced by the device of this machine."""
        if self.device != "auto":
            return self
        import torch

        return replace(self, device="cuda" if torch.cuda.is_available() else "cpu")


class HeldElsewhere(Exception):
    """Another process holds the lease of this task. Not a failure. holder: its record of the lease, if known."""

    def __init__(self, digest: str, holder: Mapping[str, Any] | None = None) -> None:
        super().__init__(digest)
        self.holder = dict(holder or {})


LOADED_AT_MOST = {"network": 4, "estimator": 2, "extractor": 8, "reference": 4, "block": 1, "features": 1, "code": 64}
LOADED_AT_MOST |= {"asset": 64, "decoder": 1, "split": 1}


class Tell(Protocol):
    """Called with the digest of a task, how much of it is done, and of a training its loss."""

    def __call__(self, digest: str, done: int, of: int, loss: float | None = None) -> None: ...


@dataclass
class Context:
    """What a task is given: the store, its worker's options, where to report progress, and what is already loaded."""

    store: Store
    options: Options = field(default_factory=Options)
    tell: Tell = lambda digest, done, of, loss=None: None
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    loads: int = 0  # networks read from the store
    warned: list[float] = field(default_factory=list)  # times (monotonic) of warnings that this process will be killed
    tasks: dict[str, Task] = field(default_factory=dict)  # of the plans read so far
    places: dict[str, str] = field(default_factory=dict)  # paths of data sets, by content
    plans: set[str] = field(default_factory=set)  # read so far

    def load(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """`make()`, cached while it is among the last few used of its kind."""
        kept = self.loaded.setdefault(kind, {})
        value = kept.pop(key) if key in kept else make()
        kept[key] = value
        if len(kept) > LOADED_AT_MOST[kind]:
            kept.pop(next(iter(kept)))
        return value

    def network(self, digest: str, precision: Precision) -> Field:
        """A trained network as a field, at this precision."""

        def make() -> Field:
            from nag.checkpoint import parse_network

            self.loads += 1
            data = read_output(self.store, "train", digest, "network.safetensors")
            source = file_name(digest, "network.safetensors")
            field = parse_network(data, self.options.device, source, self.model_of(digest))
            return precision.applied(field)

        return self.load("network", f"{digest} {precision}", make)

    def estimator(self, digest: str) -> Estimator:
        """A trained network that predicts noise levels."""
        from nag.checkpoint import parse_estimator

        return self._of_levels(digest, parse_estimator)

    def residual(self, digest: str) -> Residual:
        """A trained network that corrects noise levels."""
        from nag.checkpoint import parse_residual

        return self._of_levels(digest, parse_residual)

    def _of_levels(self, digest: str, parse: Callable[..., Any]) -> Any:
        def make() -> Any:
            data = read_output(self.store, "train", digest, "network.safetensors")
            return parse(data, self.options.device, file_name(digest, "network.safetensors"), self.model_of(digest))

        return self.load("estimator", digest, make)

    def read_plan(self, checksum: str) -> None:
        """Add the tasks of a stored plan. Its name must come from a trusted source."""
        from orchestrator.tasks import stored

        if checksum in self.plans:
            return
        plan = stored.read(self.store, checksum)
        self.tasks = {**plan.tasks, **self.tasks}
        self.places |= plan.places
        self.plans.add(checksum)

    def task(self, digest: str) -> Task:
        """A task of a stored plan. Raises ValueError if no plan has it, or if this code gives it another digest."""
        if digest not in self.tasks:
            self._find(digest)
        task = self.tasks[digest]
        if task.digest != digest:
            raise ValueError(f"task {digest} was planned by another version of nagbench (here it is {task.digest})")
        return task

    def _find(self, digest: str) -> None:
        """Look for a task in all plans of the store. Any plan will do, since `task` checks its digest."""
        from orchestrator.errors import CorruptFile
        from orchestrator.tasks import stored

        for name in self.store.list("plans"):
            with contextlib.suppress(CorruptFile):
                plan = stored.read(self.store, name.removesuffix(".json"))
                if digest in plan.tasks:
                    self.tasks = {**plan.tasks, **self.tasks}
                    self.places = {**plan.places, **self.places}
                    return
        raise ValueError(f"no plan in store {self.store.url} has the task {digest}")

    def asset(self, content: str) -> str:
        """A local path of the store's copy of a file (or a folder of weights) that the sweep names."""
        from orchestrator.tasks import assets

        return self.load("asset", content, lambda: assets.path(self.store, content))

    def place(self, content: str) -> str:
        """The path of the data set with this listing. Raises ValueError if its files have changed."""
        from nag.datasets.dataset import listing

        place = self.places[content]
        if listing(place) != content:
            raise ValueError(f"{place} has changed since the sweep was planned: other files, or other sizes")
        return place

    def extractor(self, params: Mapping[str, Any]) -> Callable[[Any], dict[str, Any]]:
        """The open extractor of `params` ({"extractor": identity, "weights": digest of its training or None})."""
        weights = params["weights"]

        def make() -> Callable[[Any], dict[str, Any]]:
            from safetensors.torch import load

            from nag.numerics import exact

            state = load(read_output(self.store, "train", weights, "extractor.safetensors")) if weights else None
            opened = self.rebuild("features", params["extractor"]).open(state, self.options.device)
            return exact(opened, self.options.device)

        return self.load("extractor", digest([params["extractor"], weights]), make)

    def rebuild(self, family: str, identity: Mapping[str, Any]) -> Any:
        """The method that an identity names; a user's own from the copy of its source in the store.

        Raises ValueError if this code has another VERSION of a method of nagbench.
        """
        from nag.registry import find

        if "encode" in identity:
            from orchestrator.tasks.latents import Latents

            return Latents(self.store, self.task(identity["encode"]), bool(identity.get("flip")))
        if "source" in identity:
            return self.own(family, identity)
        cls = find(family, identity["name"])
        instance = cls(**self.located(cls, identity["fields"]))
        if identity["version"] != type(instance).VERSION:
            here, wanted = type(instance).VERSION, identity["version"]
            raise ValueError(f"{family} {identity['name']} has version {here} here, the task wants {wanted}")
        return instance

    def located(self, cls: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an identity, with local paths of files and data sets (FILES and FOLDERS, nag.registry)."""
        here = dict(fields)
        for name in cls.FILES:
            if name in fields:
                here[name] = self.asset(fields[name])
        for name in cls.FOLDERS:
            here[name] = self.place(fields[name])
        return here

    def model_of(self, digest: str) -> Callable[[Mapping[str, Any]], Any]:
        """A function that makes the model described in the file of a trained network. The file may name a user's code
        only if its task does, or the task of the network that it was fine-tuned from: others may have written the file,
        but a digest cannot be forged.
        """
        from nag.checkpoint import described_model

        def model(described: Mapping[str, Any]) -> Any:
            if "source" not in described:
                return described_model(described)
            params = self.task(digest).params
            while "init" in params:
                params = self.task(params["init"]).params
            if params.get("model", {}).get("source") != described["source"]:
                raise ValueError(
                    f"its model is of code {str(described['source'])[:40]!r}, which this sweep does not use"
                )
            return self.own("models", described)

        return model

    def own(self, family: str, identity: Mapping[str, Any]) -> Any:
        """A user's own method, from the copy of its source in the store."""
        from nag.registry import completed
        from orchestrator.spec.user_code import revived

        cls = completed(family, self.code(identity["source"], identity["name"]))
        return revived(cls, self.located(cls, identity["fields"]))

    def code(self, source: str, name: str) -> type:
        """A class in the user's code whose digest a task names. Raises CorruptFile if the store has other code."""
        from orchestrator.spec.user_code import load
        from orchestrator.tasks.code import read

        return self.load("code", f"{source} {name}", lambda: load(read(self.store, source), name))


def finish(context: Context, task: Task, files: Mapping[str, bytes], record: Mapping[str, Any], started: float) -> None:
    """Publish a small task: its files, then the record that makes it done."""
    import platform

    from orchestrator.identity import checksum

    checksums = {}
    for name, data in files.items():
        path = file_name(task.digest, name)
        if not context.store.create(path, data):  # an earlier attempt died between file and record
            kept = context.store.read(path)
            if kept != data:
                context.store.remove(path)
                context.store.create(path, data)
        checksums[name] = checksum(context.store.read(path))
    context.store.create_record(
        task.record_name,
        {
            **record,
            "kind": task.kind,
            "digest": task.digest,
            "files": checksums,
            "started": round(started, 3),
            "seconds": round(time.time() - started, 3),
            "host": platform.node(),
            "device": context.options.device,
            "used": used(context.options.device, started),
        },
    )


def run(context: Context, digest: str, blocks: list[int] | None) -> list[int | None]:
    """Do a task of the store, or some blocks of it, unless they are there. Returns the blocks made, or [None]."""
    task = context.task(digest)
    run_kind = kind_of(task.kind).run
    if blocks is None:
        if context.store.exists(task.record_name):
            return []
        run_kind(context, task)
        return [None]
    numbers: list[int | None] = []
    for number in blocks:
        if not context.store.exists(block_name(digest, number)):
            run_kind(context, task, number)
            numbers.append(number)
    return numbers


def input_names(context: Context, task: Task, blocks: Iterable[int] | None) -> Iterator[str]:
    """Names of the files that a small task, or these blocks of a task, needs in the store. Ask for the next one only if
    the last one is there.
    """
    if reads := kind_of(task.kind).reads:
        yield from reads(context, task)
        return
    if blocks is None and "count" in task.params:
        blocks = range(-(-task.params["count"] // task.params["block"]))
    for need in map(context.task, task.inputs):
        numbers = shards(need) if kind_of(need.kind).finite else blocks or ()  # a training reads all latents
        yield from (block_name(need.digest, n) for n in numbers) if need.makes_blocks else (need.record_name,)
