"""Overhead of Ray: small blocks on actors compared with one process per block, and the driver at 50,000 blocks.

    .venv/bin/python benchmarks/ray_blocks.py [BLOCKS] [TASKS] [MANY]

BLOCKS (1,000) blocks of 8 samples, of a network of the digits size, on a private Ray with two CPUs: by the backend,
including its start, and TASKS (20) of them as one Ray task each, in a process that ends with it, as Ray does with GPU
tasks (max_calls=1); the time of all is extrapolated. Then MANY (50,000) blocks that take no time, in bundles of the
engine: CPU seconds of the driver per block, calls in flight, memory. On a shared machine only ratios count.
Bounds: at least 5 times faster; at most 5 ms per block; bounded memory.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # as a worker

from orchestrator.backends.ray import connection
from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.ray.private import Private
from orchestrator.execution import engine
from orchestrator.execution.protocol import End
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

SWEEP = """\
name: blocks
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 1, batch: 8, noise_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: COUNT, block: 8}
arms: {plain: {}}
"""
DEFAULTS = ["1000", "20", "50000"]


class Silent:
    """An observer that does nothing."""

    def stages(self, total: dict[str, float]) -> None: ...
    def progress(self, kind: str, done: float) -> None: ...
    def finished(self, kind: str, digest: str) -> None: ...
    def loss(self, digest: str, value: float) -> None: ...
    def note(self, text: str) -> None:
        print("  " + text)


def planned(folder: Path, blocks: int) -> Any:
    path = folder / f"{blocks}.yaml"
    path.write_text(SWEEP.replace("COUNT", str(8 * blocks)))
    return plan(read_sweep(path))


def by_actors(folder: Path, store: Store, blocks: int) -> float:
    """Seconds for the blocks of a trained network, including the start of Ray and its actors."""
    engine.run(planned(folder, 1), store, lambda: Ray(store, Options(), cpus=2), Silent())
    began = time.monotonic()
    failed = engine.run(planned(folder, blocks), store, lambda: Ray(store, Options(), cpus=2), Silent())
    assert not failed, failed
    return time.monotonic() - began


def by_tasks(folder: Path, blocks: int, tasks: int) -> float:
    """Seconds for the same blocks with one process each, two at a time; extrapolated from TASKS."""
    from orchestrator.execution.worker import run

    found, store = planned(folder, blocks), Store(str(folder / "tasks"))
    digest = next(iter(found.goals))
    engine.run(planned(folder, 1), store, lambda: Ray(store, Options(), cpus=2), Silent())
    private = Private(2)
    os.environ.update(private.environment)  # before Ray is imported
    import ray

    ray.init(address=private.address, log_to_driver=False)
    remote = ray.remote(num_cpus=1, max_calls=1)(run)
    times = []
    for first in range(1, tasks, 2):
        began = time.monotonic()
        ray.get([remote.remote(store.url, digest, [number]) for number in (first, first + 1)])
        times.append((time.monotonic() - began) / 2)
    ray.shutdown()
    private.close()
    return statistics.median(times) * blocks


def driver(folder: Path, blocks: int) -> None:
    connection.DRIVER = "benchmarks.ray_idle_driver"
    store = Store(str(folder / "idle"))
    store.open()
    found = planned(folder, blocks)
    digest, name = next(iter(found.goals)), engine.keep_plan(found, store)
    todo: dict[str, list[int] | None] = {digest: list(range(blocks))}
    backend = Ray(store, Options(), cpus=2)
    try:
        work = []
        for handle, waiting in enumerate(engine.bundles(found, name, todo, set(), backend.size, {}), start=1):
            work.append(engine.Work(handle, waiting.bundle))
        backend.submit(work)
        ended, calls, memory = 0, 0, []
        while not any(worker.host for worker in backend.workers):
            ended += sum(isinstance(event, End) for event in backend.poll(0.5))
        began, at = time.process_time(), time.monotonic()
        while ended < len(work):
            ended += sum(isinstance(event, End) for event in backend.poll(0.5))
            calls = max(calls, sum(worker.due for worker in backend.workers))
            memory.append(resident())
        each = (time.process_time() - began) / blocks
        tenth = len(memory) // 10
        grown = statistics.mean(memory[-tenth:]) - statistics.mean(memory[tenth : 2 * tenth])
        print(
            f"  {blocks:,} blocks in {len(work):,} bundles: {1e3 * each:.3f} ms a block of this process, "
            f"{blocks / (time.monotonic() - at):,.0f} blocks/s, at most {calls} calls in flight, "
            f"memory {memory[-1]:.0f} MB, {grown:+.1f} MB from the second tenth to the last"
        )
    finally:
        backend.close()


def resident() -> float:
    """Memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    given = sys.argv[1:]
    blocks, tasks, many = map(int, given + DEFAULTS[len(given) :])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{blocks:,} small blocks of one network, two workers (bound: 5)")
        fast = by_actors(folder, Store(str(folder / "store")), blocks)
        slow = by_tasks(folder, blocks, tasks)
        print(f"  {slow / fast:.1f} times faster: {fast:.1f} s by actors, {slow:.0f} s by a process a block")
        print("The driver, actors that take no time (bound: 5 ms)")
        driver(folder, many)


if __name__ == "__main__":
    main()
