"""Slurm at the size of a real sweep, on a private cluster (tests/slurm/cluster.py; needs Debian's Slurm and root).

python benchmarks/slurm_queue.py queue       1,000 cells x 50 blocks into a partition where nothing starts, the best of
                                             five: asked 5 s of CPU time, and no more than (arrays + 5) calls of Slurm's
                                             commands; then `status`: 2 s
python benchmarks/slurm_queue.py pack        500 tiny blocks on two nodes, packed and one an array task: asked 10 times
python benchmarks/slurm_queue.py simulate    the packing on 512 GPUs, with stated times: asked 95 % in the network

On a shared machine only orders of magnitude count.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.commands import THOUSAND, fill
from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.backends.slurm.forecast import makespan
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.execution.bundles import bundles
from orchestrator.execution.protocol import Bundle, Work
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done, missing
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.conftest import run_here
from tests.slurm.cluster import cluster
from tests.slurm.configuration import Settings
from tests.slurm.running import SMALL, Place, changed, counting

RUNS = 5
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "sacctmgr", "scancel")
TINY = changed(SMALL, "score: {features: [pixels], metrics: [fid]}\n", "", "  nag: {nag: {scale: 1.0}}\n", "")
TASKS, MEASURED = 500, 40  # tiny blocks; of one an array task so many are run, and the rest is extrapolated

# Stated times: SiT-XL/2 at 100 evaluations a second on one GPU, 100 evaluations a sample, 1,000 samples a block;
# Inception at 500 images a second; an array task starts (Slurm, Python, torch) in 15 s and loads its network in 15 s.
GPUS, START_S, LOAD_S = 512, 15.0, 15.0
STATED_S = {"sample": 1000.0, "extract": 2.0, "reference": 300.0, "score": 30.0}
SPREAD = 0.15  # standard deviation of the log of a block's time


@contextlib.contextmanager
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder) / "c", Settings()) as made:
        yield Place(Path(folder) / "me", made)


def measured(at: Place, command: str, env: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of CPU time, with those of Slurm's commands."""
    before = os.times()
    took, after = timed(at, command, env), os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return took, cpu


def timed(at: Place, command: str, env: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    done = at.run(command, env=env)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - started


def queue() -> None:
    with place() as first:
        runs = []
        for number in range(RUNS):
            at = Place(first.folder.parent / f"me{number}", first.cluster)
            at.sweep(THOUSAND)
            long = ("sample: {minutes: 6", "sample: {minutes: 90", "target_minutes: 5", "target_minutes: 30")
            at.closed("throttle: 1", "throttle: 64", *long)
            path, calls = counting(at.folder / "bin", *COMMANDS)
            runs.append(measured(at, "submit", path))
            if number + 1 < RUNS:
                at.cluster.out("scancel", "--user=root")
        submitted = calls()
        print(
            f"submit, best of {RUNS}: {min(cpu for _, cpu in runs):.1f} s of CPU time (asked: 5), "
            f"{min(took for took, _ in runs):.1f} s by the clock; {submitted['sbatch']} arrays, "
            f"{len(at.array_tasks()):,} array tasks, "
            f"{sum(submitted.values())} calls (asked: {submitted['sbatch'] + 5}): {dict(submitted)}"
        )
        print(f"the same again, nothing to queue: {timed(at, 'submit', path):.1f} s")
        made = fill(at.folder / "sweep.yaml", at.folder / "results" / "store", 0.5)
        before = calls()
        took = statistics.median(timed(at, "status", path) for _ in range(5))
        print(
            f"status with {made:,} blocks done: {took:.2f} s (bound: 2); calls: {dict(calls() - before)} in five runs"
        )


def pack() -> None:
    """One an array task first; the training and the speeds are there before."""
    with place() as at:
        text = changed(TINY, "{count: 40, block: 20}", "{count: 2, block: 1}")
        at.sweep(text)
        run_here(at.folder / "sweep.yaml", at.folder / "results" / "store")
        at.sweep(changed(text, "count: 2", f"count: {2 + MEASURED}"))
        at.site("throttle: 1", "throttle: 4", "target_minutes: 5", "target_minutes: 0.00001")
        alone = until_done(at)
        at.sweep(changed(text, "count: 2", f"count: {2 + MEASURED + TASKS}"))
        at.site("throttle: 1", "throttle: 4")
        packed = until_done(at)
        extrapolated = alone * TASKS / MEASURED
        print(
            f"{TASKS} tiny blocks, packed: {packed:.0f} s; one an array task: {extrapolated:.0f} s (extrapolated from "
            f"{MEASURED} in {alone:.0f} s): {extrapolated / packed:.0f} times faster (asked: 10)"
        )


def until_done(at: Place) -> float:
    started = time.perf_counter()
    submitted = at.run("submit")
    assert submitted.returncode == 0, submitted.stderr
    print(next(line for line in submitted.stderr.splitlines() if "queued sample" in line))
    at.wait(3000)
    found = plan(read_sweep(at.folder / "sweep.yaml"))
    assert not missing(found, Done(at.store)), at.logs()
    return time.perf_counter() - started


def simulate() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sweep.yaml").write_text(THOUSAND)
        planned = plan(read_sweep(Path(folder) / "sweep.yaml"))
        store = Store(f"{folder}/store")
        store.open()
        site = SlurmSettings(throttle=GPUS)
        found = packed(planned, store, site)
        draw = random.Random(0)
        lasting: dict[str, list[float]] = {}
        inside = life = 0.0
        for array in found:
            lasting[array.name] = []
            for task in array.tasks:
                blocks = [draw.lognormvariate(0, SPREAD) * seconds(planned, bundle) for bundle in task.bundles]
                lasting[array.name].append(START_S + LOAD_S * bool(array.network) + sum(blocks))
                if array.network:
                    inside, life = inside + sum(blocks), life + lasting[array.name][-1]
        took = makespan(found, lasting, GPUS)
        busy = sum(sum(lasting[a.name]) * a.resources.gpus * a.resources.nodes for a in found)
        count = sum(len(array.tasks) for array in found if array.network)
        print(
            f"{len(planned.cells):,} cells x 50 blocks on {GPUS} GPUs: {len(found)} arrays; {count:,} array tasks "
            f"sample, {life / count / 60:.0f} minutes each, {inside / life:.1%} of that in their network (asked: 95 %)"
        )
        print(
            f"makespan {took / 3600:.1f} h, GPUs busy for {busy / took / GPUS:.1%} of it, {busy / 3600:,.0f} GPU hours"
        )


def seconds(planned: Plan, bundle: Bundle) -> float:
    kinds = ((planned.tasks[digest].kind, len(blocks or (0,))) for digest, blocks in bundle.steps)
    return sum(STATED_S[kind] * number for kind, number in kinds)


def packed(planned: Plan, store: Store, site: SlurmSettings) -> list[Array]:
    """The arrays as `submit` would make them; the networks are trained."""
    todo = {d: blocks for d, blocks in missing(planned, Done(store)).items() if planned.tasks[d].kind != "train"}
    work: list[Work] = []
    makers: dict[str, set[int]] = {}
    for handle, waiting in enumerate(bundles(planned, "", todo, todo, lambda plan, stream, blocks: 1, {}), 1):
        work.append(Work(handle, waiting.bundle, frozenset(m for need in waiting.needs for m in makers.get(need, ()))))
        for digest, _ in waiting.bundle.steps:
            makers.setdefault(digest, set()).add(handle)
    return arrays(work, site, lambda bundle: seconds(planned, bundle), str, {}, 1001)


if __name__ == "__main__":
    known = {"queue": queue, "pack": pack, "simulate": simulate}
    if sys.argv[1:2] and sys.argv[1] not in known:
        sys.exit(f"unknown: {sys.argv[1]}. Known: {', '.join(known)}")
    for name in sys.argv[1:] or known:
        known[name]()
