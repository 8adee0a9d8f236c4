"""The site file: where a sweep runs and with what, checked as strictly as a sweep (`--site PATH or NAME`).

It says nothing that changes a result. To add a kind of site, write a dataclass and add a line to KINDS. Text of it
reaches a shell where it is the user's own script (`setup`), as quoted words (`container`, `python`, `env_file`), or
after a check that leaves nothing a shell would act on (partition, account and the like); nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from nag.cache import xdg
from nag.registry import Int, method
from orchestrator.display import SECRET
from orchestrator.errors import BadInput, unknown
from orchestrator.methods import Builder
from orchestrator.yaml_text import Node, parse, read_text

SITE = ("site", "It needs at least kind: slurm.")
DEFAULT = "site"  # ~/.config/nagbench/site.yaml
SUFFIXES = (".yaml", ".yml")
PER_NODE = "gpus_per_node"
# A secret written out: NAME=value where the name says it is one, or user:password@ in an address. A value that a shell
# gets elsewhere ($NAME, $(cat FILE), `cat FILE`) is none, nor is the name of a file.
NAMED = re.compile(rf"(?i)(?<![\w.-])({SECRET}|(?:\w*_)?key)=['\"]?(?![\s'\"$`]|$)")
HARMLESS = re.compile(r"(?i)tokenizer|_(file|path|dir|cmd|command)$")
PASSWORD = re.compile(r"://[^\s/@:'\"]*:(?![$`@])[^\s'\"]+@")


def _checked(pattern: str, words: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {words}")
        return text

    return AfterValidator(check)


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*"
Name = Annotated[str, _checked(_NAME, "a name of letters, digits and _ . @ + -")]
Names = Annotated[
    str, _checked(f"{_NAME}(,{_NAME})*", "a name of letters, digits and _ . @ + -, or several with commas")
]
Constraint = Annotated[
    str, _checked(r"[A-Za-z0-9_\[(][A-Za-z0-9_.:=&|,*!()\[\]-]*", "features such as a100, 'a100|h100' or a100&nvlink")
]
Gres = Annotated[
    str,
    _checked(rf"{PER_NODE}|{_NAME}(:{_NAME})*:\{{gpus\}}", f"gpu:{{gpus}}, gpu:TYPE:{{gpus}} or {PER_NODE}"),
]
Place = Annotated[str, _checked(r"[/~].*", "an absolute path, or one that starts with ~")]
OnNode = Annotated[str, _checked(r"[/$].*", "an absolute path, or one that starts with a variable such as $TMPDIR")]
Word = Annotated[str, _checked(r"(?s).+", "a word")]
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 365)]
Memory = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[Int, Field(ge=1, le=10_000)]


@dataclass(frozen=True)
class Resources:
    """What one element of a stage asks for. `gpus`, `cpus` and `memory_gb` are those on each of `nodes`."""

    minutes: float
    memory_gb: float
    cpus: int
    gpus: int
    nodes: int = 1


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
    """What a site says of one stage; what it leaves out is in STAGES."""

    minutes: Minutes | None = None
    memory_gb: Memory | None = None
    cpus: Count | None = None
    gpus: Annotated[Int, Field(ge=0, le=64)] | None = None
    nodes: Count | None = None


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
class Slurm:
    """A Slurm cluster, seen from its login node."""

    partition: Names | None = None  # None: the default one of the cluster
    cpu_partition: Names | None = None  # of elements without a GPU; None: `partition`
    account: Name | None = None
    qos: Name | None = None
    constraint: Constraint | None = None
    gres: Gres = "gpu:{gpus}"
    setup: tuple[Word, ...] = ()
    container: tuple[Word, ...] = ()
    python: Word | None = None  # on the nodes; None: the one that runs nagbench
    env_file: Place | None = None
    stages: Stages = Stages()
    target_minutes: Annotated[float, Field(gt=0, le=720)] = 30
    throttle: Count = 8
    max_submit: Annotated[Int, Field(ge=1)] | None = None
    scratch: OnNode | None = None
    reconcile: Literal["job", "manual"] = "job"
    poll_s: Annotated[float, Field(ge=0.1, le=60)] = 60
    folder: Place | None = None
    memory_gb_at_most: Memory | None = None
    generations_at_most: Annotated[Int, Field(ge=1, le=1000)] = 20
    signal_s: Annotated[Int, Field(ge=0, le=3600)] = 90
    stagger_s: Annotated[float, Field(ge=0, le=60)] = 0.5  # between the starts of neighbouring elements, up to 20

    def __post_init__(self) -> None:
        for stage in STAGES:
            asked = self.resources(stage)
            if self.memory_gb_at_most is not None and asked.memory_gb > self.memory_gb_at_most:
                raise ValueError(
                    f"memory_gb_at_most is {self.memory_gb_at_most:g}, but {stage} has {asked.memory_gb:g}"
                )
        sample = self.resources("sample").minutes
        if sample <= self.target_minutes:
            raise ValueError(
                f"target_minutes is {self.target_minutes:g}, but stages.sample.minutes, the limit of an element, "
                f"is {sample:g}: an element that reaches its target would be ended"
            )

    def resources(self, stage: str) -> Resources:
        """What an element of `train`, `sample`, ... asks for. Raises KeyError for what is no stage."""
        usual = STAGES[stage]
        said = dataclasses.asdict(getattr(self.stages, stage))
        return dataclasses.replace(usual, **{key: value for key, value in said.items() if value is not None})

    @property
    def trained_on(self) -> int:
        """Processes that train one network together, each on a GPU of its own where the stage asks for any."""
        asked = self.resources("train")
        return max(1, asked.gpus) * asked.nodes

    def partition_of(self, gpus: int) -> str | None:
        return self.partition if gpus else self.cpu_partition or self.partition

    def gpu_option(self, gpus: int) -> dict[str, str]:
        """The option of sbatch that asks for GPUs on each node: none, one and its value."""
        if not gpus:
            return {}
        if self.gres == PER_NODE:
            return {"gpus-per-node": str(gpus)}
        return {"gres": self.gres.format(gpus=gpus)}

    @property
    def command(self) -> str:
        """Python on a node as a shell writes it, the container before it."""
        return shlex.join([*self.container, self.python or sys.executable])

    @property
    def script(self) -> list[str]:
        """The lines of a batch script before its work. What is in env_file is read on the node, not copied here."""
        if self.env_file is None:
            return list(self.setup)
        return [f"set -a; . {shlex.quote(os.path.expanduser(self.env_file))} || exit 3; set +a", *self.setup]


@method
class Local:
    """This machine."""

    workers: Count | None = None
    processes: Count = 1  # that train one network together, each on a GPU of its own where there are any

    @property
    def trained_on(self) -> int:
        return self.processes


Amount = Annotated[float, Field(ge=0, le=1024)]


@method
class RayWorker:
    """What a worker on a Ray cluster holds while it lives. gpus: below 1 several share one; None: one where the cluster
    has GPUs. resources: such as the administrator has named.
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
            raise ValueError(f"gpus is {self.gpus:g}: a part of one GPU, or a whole number")


@method
class Ray:
    """A Ray cluster that is up. `address` is for commands on its nodes (`run`), `jobs` for `submit` from anywhere."""

    address: Annotated[str, _checked(r"[A-Za-z0-9_.\[\]:-]+:\d{1,5}", "HOST:PORT, such as head:6379")] | None = None
    jobs: Annotated[str, _checked(r"https?://\S+", "the address of Ray's Job API, such as http://head:8265")] | None = (
        None
    )
    token_file: Place | None = None
    worker: RayWorker = RayWorker()
    cpu_worker: RayWorker = RayWorker()
    cpu_stages: tuple[Word, ...] = ("reference", "score")  # done by workers that see no GPU
    processes: Count = 1  # that train one network together, on any nodes, each with what `worker` holds
    workers: Count | None = None  # with a GPU, and as many without, at most; None: as many as the cluster holds
    memory_gb_at_most: Memory | None = None
    wait_s: Annotated[float, Field(ge=0, le=3600)] = 45  # for a node that can do the work, before that is an error
    python: Word = "python"  # on the head, for the driver of a job

    def __post_init__(self) -> None:
        for stage in self.cpu_stages:
            if stage not in STAGES:
                raise ValueError(f"cpu_stages: {unknown('stage', stage, STAGES)}")
        if self.cpu_worker.gpus or self.cpu_worker.gpu_type:
            raise ValueError("cpu_worker has no gpus; a stage that wants one is to be left out of cpu_stages")
        if self.processes > 1 and 0 < (self.worker.gpus or 0) < 1:
            raise ValueError(f"processes is {self.processes}, so each needs a GPU of its own: worker.gpus is below 1")

    @property
    def trained_on(self) -> int:
        return self.processes


KINDS: dict[str, type] = {"slurm": Slurm, "ray": Ray, "local": Local}


@dataclass(frozen=True)
class Site:
    name: str
    path: str
    kind: str
    settings: Any  # of the class that KINDS has for the kind


def read_site(site: str | None = None) -> Site:
    """The site file at a path, or of a name. Raises BadInput if there is none, SpecError for what is wrong in it."""
    path = find_site(site)
    root = parse(read_text(path, SITE), str(path), SITE)
    fields = root.mapping("{kind: slurm, partition: ...}")
    _plain_text(root)
    if root.get("kind") is None:
        raise root.error(f"'kind' is missing. Known: {', '.join(sorted(KINDS))}.")
    kind = fields["kind"].text()
    if kind not in KINDS:
        raise fields["kind"].error(unknown("kind", kind, KINDS))
    given = _without_nulls(dataclasses.replace(root, value={k: child for k, child in fields.items() if k != "kind"}))
    settings = Builder().fields(KINDS[kind], given)
    _no_secrets(root)
    for secret in ("env_file", "token_file"):
        if given.get(secret):
            _private(given.value[secret])
    return Site(path.stem, str(path), kind, settings)


def folders() -> list[Path]:
    """Where names of sites are looked up: the user's own, then the examples of the project."""
    config = xdg("CONFIG", ".config") / "nagbench"
    return [config, Path(__file__).resolve().parents[1] / "sites"]


def find_site(site: str | None) -> Path:
    """The file that `--site` names. A path has a slash or ends in .yaml; anything else is a name."""
    if site is not None and (os.sep in site or site.endswith(SUFFIXES)):
        return Path(site).expanduser()
    found = {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.yaml"))}
    name = DEFAULT if site is None else site
    if name in found:
        return found[name]
    if site is None:
        raise BadInput(
            f"{folders()[0] / (DEFAULT + '.yaml')}: there is no such file. Write it after an example in sites/, or say "
            f"--site PATH or NAME. Known: {', '.join(sorted(found)) or 'none'}."
        )
    close = difflib.get_close_matches(name, found, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BadInput(
        f"unknown site {name!r}.{hint} Known: {', '.join(sorted(found)) or 'none'} "
        f"(in {', '.join(map(str, folders()))}); a path ends in .yaml."
    )


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    children = (
        node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    )
    for child in children:
        yield from _nodes(child)


def _plain_text(root: Node) -> None:
    """No text of the file holds a line break, which would end a line of a batch script, or what nobody can see."""
    for node in _nodes(root):
        if isinstance(node.value, str) and not node.value.isprintable():
            raise node.error(
                "a line break or a character that cannot be seen is in it; write one line, or a list of lines."
            )


def _without_nulls(node: Node) -> Node:
    """null means absent, everywhere."""
    if not isinstance(node.value, dict):
        return node
    kept = {key: _without_nulls(child) for key, child in node.value.items() if child.value is not None}
    return dataclasses.replace(node, value=kept)


def _no_secrets(root: Node) -> None:
    """No text of the file, which goes into batch files and onto command lines, is a secret."""
    for node in _nodes(root):
        if not isinstance(node.value, str):
            continue
        named = next((m[1] for m in NAMED.finditer(node.value) if not HARMLESS.search(m[1])), None)
        if named or PASSWORD.search(node.value):
            raise node.error(
                f"{named or 'the password of an address'} looks like a secret, and this text is written into batch "
                "files. Put it into a file that only you can read, and name that as env_file."
            )


def _private(node: Node) -> None:
    """The file of secrets is a file of the user's, for nobody else."""
    path = Path(node.value).expanduser()
    try:
        found = path.stat()
    except OSError as error:
        raise node.error(f"{path}: {(error.strerror or 'cannot be read').lower()}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise node.error(f"{path} is no file.")
    if found.st_uid != os.geteuid():
        raise node.error(f"{path} is not yours.")
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise node.error(f"{path} can be read by others (mode {mode}); run: chmod 600 {shlex.quote(str(path))}")
