"""A sweep to disturb on a cluster of our own, and what must hold whatever happened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, run_here
from tests.slurm.cluster import alive, environment, processes, wait
from tests.slurm.running import SITE, Place, changed

# The user's own code: Euler's method and SiT, as slow and as troublesome as files in a folder of the test say.
PACED = """\
import math
import os
import time
from pathlib import Path

from nag.models.sit import SiT
from nag.registry import method
from nag.samplers.euler import Euler

FOLDER = Path(os.environ.get("NAGBENCH_FAULTS", "/nonexistent"))


def said(name, otherwise=0.0):
    return float((FOLDER / name).read_text()) if (FOLDER / name).exists() else otherwise


@method
class PacedSiT(SiT):
    def module(self, *arguments, **options):
        made = super().module(*arguments, **options)
        made.register_forward_pre_hook(step)
        return made


def step(module, given):
    if module.training and FOLDER.exists():
        with open(FOLDER / "steps", "a") as steps:
            steps.write(".")
        time.sleep(said("step"))


@method
class Paced(Euler):
    trouble: str = ""

    def __call__(self, field, y, noise, *, observe=None):
        import torch

        first = int(noise.indices[0])
        if FOLDER.exists():
            with open(FOLDER / "calls", "a") as calls:
                calls.write(f"{first}\\n")
        time.sleep(said("pace"))
        while self.trouble == "hang" and (FOLDER / f"hang-{first}").exists():
            time.sleep(0.05)
        if len(y) > (10 if self.trouble == "device" else said("most", math.inf)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        asked_gb = int(os.environ.get("SLURM_MEM_PER_NODE", "0")) / 1024
        if said("gigabytes") > asked_gb:
            kept = bytearray(int(said("gigabytes") * 2**30))
            kept[::4096] = b"x" * len(kept[::4096])
            time.sleep(60)
        if self.trouble == "input":
            raise ValueError(f"these {len(y)} samples are not to be had")
        x = super().__call__(field, y, noise, observe=observe)
        if self.trouble == "nan":
            observe(self.steps + 1, 0.0, x * math.nan)
        return x
"""

# One training, one reference, three streams of eight blocks, and their scores.
SWEEP = """\
name: faults
networks:
  sit:
    data: {name: digits}
    model: {use: ./paced.py:PacedSiT, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 200, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {use: ./paced.py:Paced, steps: 2}
sample: {count: 160, block: 20}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  nag: {nag: {scale: 1.0}}
  late: {sampler: {use: ./paced.py:Paced, steps: 2, trouble: hang}}
"""
ARMS = ("plain", "nag", "late")
MADE = re.compile(r"^(\S+ \S+) made (\w+) (\w+) ([\d ]*)in ([\d.]+) s$", re.MULTILINE)
CLOCK_S = 2.0  # logs have whole seconds


def undisturbed(folder: Path, sweep: str = SWEEP) -> Ran:
    """The undisturbed sweep, run in this process with one thread, as an array task runs it."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    (folder / "paced.py").write_text(PACED)
    (folder / "sweep.yaml").write_text(sweep)
    return run_here(folder / "sweep.yaml", folder / "store")


def says(folder: Path, **settings: float) -> None:
    """Write, in one piece, what the user's code reads from now on."""
    for name, value in settings.items():
        (folder / f".{name}").write_text(str(value))
        (folder / f".{name}").replace(folder / name)


@dataclass(frozen=True)
class Task:
    """A process that does the work of an array task."""

    pid: int
    job: str  # `7_0`, or `7`
    node: str

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def runs(self) -> bool:
        return alive(self.pid)


@dataclass
class Trial(Place):
    """The sweep in a folder of its own, to be disturbed. trained: it begins with network and reference."""

    base: Ran | None = None
    trained: bool = True
    changes: tuple[str, ...] = ()  # of SITE
    setup: tuple[str, ...] = ()  # lines of its script
    text: str = SWEEP
    faults: Path = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.faults = self.folder / "faults"
        self.faults.mkdir()
        (self.folder / "paced.py").write_text(PACED)
        self.sweep(changed(self.text, "name: faults", f"name: {self.folder.name}"))
        setup = [f"export NAGBENCH_FAULTS={self.faults}", *self.setup]
        more = f"folder: {self.folder}/shared\nsetup: {json.dumps(setup)}\n"
        (self.folder / "site.yaml").write_text(changed(SITE, *self.changes) + more)
        if self.trained and self.base is not None:
            for name in ("records/train", "records/reference", "files", "nagbench.json"):
                self.copy(name)

    def copy(self, name: str) -> None:
        """A folder or a file of the store of the undisturbed run."""
        assert self.base is not None
        source, target = Path(self.base.store.path(name)), Path(self.store.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

    def plan(self) -> Plan:
        return plan(read_sweep(str(self.folder / "sweep.yaml")))

    def refuse_links(self) -> None:
        """From now on no process of this trial can make a hard link; the file `refused` counts the tries."""
        (self.folder / "sitecustomize.py").write_text(
            "import errno, os\n\n\ndef refuse(source, target, **options):\n"
            f"    open({str(self.folder / 'refused')!r}, 'a').write('x')\n"
            "    raise OSError(errno.EPERM, 'Operation not permitted')\n\n\nos.link = refuse\n"
        )
        self.env["PYTHONPATH"] = f"{self.folder}{os.pathsep}{self.env['PYTHONPATH']}"
        site = self.folder / "site.yaml"
        site.write_text(changed(site.read_text(), "setup: [", f'setup: ["export PYTHONPATH={self.folder}", '))

    def says(self, **settings: float) -> None:
        says(self.faults, **settings)

    def submit(self, *options: str, codes: tuple[int, ...] = (0,), **more: Any) -> None:
        done = self.run("submit", "--checkpoint-seconds", "0.5", *options, **more)
        assert done.returncode in codes, done.stderr

    # What there is.

    def blocks(self, kind: str = "sample") -> int:
        return sum(len(self.store.list(f"blocks/{digest}")) for digest in self.digests(kind))

    def count(self, what: str) -> int:
        """Of `calls` of the sampler, or `steps` of the training, by all copies together."""
        place = self.faults / what
        return place.read_text().count("\n" if what == "calls" else ".") if place.exists() else 0

    def digests(self, kind: str) -> list[str]:
        return [digest for digest, task in self.plan().tasks.items() if task.kind == kind]

    def arrays(self) -> list[dict[str, Any]]:
        """All arrays that were ever queued, in order."""
        paths = sorted(self.folder.glob("results/store/waves/*/*/[0-9][0-9][0-9].json"))
        return [json.loads(path.read_text()) for path in paths]

    def tasks(self, kind: str) -> list[Task]:
        """The processes that do array tasks of a kind."""
        kinds = {array["name"]: array["kind"] for array in self.arrays()}
        return [task for name, task in self._processes() if kinds.get(name) == kind]

    def reconciler(self) -> Task | None:
        stem = f"nb.root.{self.name}."
        names = [(name, task) for name, task in self._processes() if name.startswith(stem)]
        return next((task for name, task in names if name.endswith(".reconcile")), None)

    def _processes(self) -> list[tuple[str, Task]]:
        """The first process of each running step that submitit began on this trial's cluster, with the job's name."""
        found = []
        for pid in processes():
            known = dict(pair.decode(errors="replace").partition("=")[::2] for pair in environment(pid))
            mine = known.get("SLURM_CONF") == self.env["SLURM_CONF"] and known.get("SLURM_PROCID") == "0"
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if mine else [b""]
                if b"python" in os.path.basename(words[0]) and b"submitit.core._submit" in words:
                    index = f"_{known['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in known else ""
                    job = known.get("SLURM_ARRAY_JOB_ID", known["SLURM_JOB_ID"]) + index
                    found.append((known["SLURM_JOB_NAME"], Task(pid, job, known["SLURMD_NODENAME"])))
        return sorted(found, key=lambda each: each[1].pid)

    def attempts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("results/store/attempts/*/*.json"))]

    def causes(self) -> list[str]:
        return [attempt["cause"] for attempt in self.attempts()]

    def checkpoint(self) -> int:
        """The step of the newest checkpoint."""
        found = self.folder.glob("results/store/files/*/checkpoint-*.safetensors")
        return max((int(path.stem.removeprefix("checkpoint-")) for path in found), default=0)

    def resumed_at(self) -> list[int]:
        found = self.folder.glob("results/store/records/train/*.json")
        return [json.loads(path.read_text()).get("resumed_at", 0) for path in found]

    def wait_for(self, true: Callable[[], object], what: str, seconds: float = 120) -> None:
        try:
            wait(true, what, seconds, 0.1)
        except TimeoutError as error:
            queue = self.cluster.run("squeue", "--states=all", "-o", "%i %j %T %r").stdout
            raise TimeoutError(f"{error}\n{queue}\n{self.logs()[-6000:]}") from error

    # What must hold at the end.

    def done(
        self,
        *,
        arms: Sequence[str] = ARMS,
        atol: float = 0,
        lost: int | None = None,
        damaged: int | None = 0,
        code: int = 0,
    ) -> None:
        """Nothing is queued; the same bits and numbers as in peace, and nothing that was done was done again.

        lost: blocks that may have been begun and not published. damaged: blocks that were, and were set aside. code:
        of the report.
        """
        assert self.base is not None
        self.wait_for(lambda: not self.queue(), "nothing is queued")  # the last array task may just be ending
        report = self.run("report")
        assert report.returncode == code, report.stderr
        self.same(arms, atol)
        aside = list(self.folder.glob("results/store/quarantine/blocks/*/*"))
        assert damaged is None or len(aside) == damaged, f"set aside: {aside}"
        again = self.made_again()
        assert not again, f"made again: {again}"
        if lost is not None:
            assert self.count("calls") - self.blocks() <= lost, "more was lost"

    def same(self, arms: Sequence[str], atol: float = 0) -> None:
        assert self.base is not None
        found = self.plan()
        for planned in found.cells:
            if planned.cell.arm in arms:
                network = f"files/{found.tasks[planned.stream].params['network']}/network.safetensors"
                assert self.store.read(network) == self.base.store.read(network), "another network"
                for digest in (planned.stream, *planned.extracts):
                    for number in range(found.blocks[planned.stream]):
                        name = f"blocks/{digest}/{number:06d}.safetensors"
                        ours, theirs = (store.read_arrays(name)[0] for store in (self.store, self.base.store))
                        for key in theirs:
                            np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=atol, err_msg=name)
        if not atol:
            kept = {key: value for key, value in self.metrics().items() if key.partition("{")[0] in arms}
            assert kept
            assert kept.items() <= _metrics(self.base).items()

    def made_again(self) -> list[str]:
        """Blocks and tasks that an array task started after they had been published."""
        found = []
        for line in MADE.finditer(self.logs()):
            stamp, kind, digest, blocks, seconds = line.groups()
            names = [block_name(digest, int(number)) for number in blocks.split()] or [record_name(kind, digest)]
            found += [line.group() for name in names if begun_late(self.store, name, stamp, seconds)]
        return found


def begun_late(store: Store, name: str, stamp: str, seconds: str) -> bool:
    """Whether what was made in so many seconds, as a log says, was begun when it had been published."""
    begun = time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) - float(seconds)
    return begun > os.stat(store.path(name)).st_mtime + CLOCK_S


def _metrics(ran: Ran) -> dict[str, Any]:
    from tests.orchestrator.conftest import metrics

    return metrics(ran.document())
