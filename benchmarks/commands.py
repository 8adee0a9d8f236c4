"""Times of the light commands, and of planning 1,000 cells of 50 blocks.

    .venv/bin/python benchmarks/commands.py

Prints the median of several runs next to its bound. On a shared machine only orders of magnitude count.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

THOUSAND = """\
name: thousand
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 500, noise_dropout: 0.15, seed: {grid: [0, 1, 2, 3, 4]}}
sampler: {grid: [{name: euler, steps: 10}, {name: heun, steps: 10}]}
sample: {count: 50000, block: 1000}
score: {features: [digits], metrics: [fid, precision_recall]}
arms:
  nag: {nag: {scale: {grid: [SCALES]}}}
""".replace("SCALES", ", ".join(f"{1 + i / 100:.2f}" for i in range(100)))

TUNED = """\
name: tuned
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: {grid: [1, 2, 3, 4]}, heads: 4, patch: 2}
    train: {steps: 500, noise_dropout: 0.15, class_dropout: 0.1, seed: {grid: [0, 1, 2, 3, 4]}}
sampler: {name: euler, steps: {grid: [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]}}
sample: {count: 1000, block: 100}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
tune: {metric: fid, seed: 1, count: 400}
arms:
"""
TUNED += "".join(f"  {arm}: {{{arm}: {{scale: {{tune: [1.1, 1.2, 1.4, 1.6, 1.8, 2]}}}}}}\n" for arm in ("cfg", "nag"))
for name, scale in (("a", 0.5), ("b", 1), ("c", 1.5)):
    TUNED += f"  {name}: {{cfg: {{scale: {{tune: [1.1, 1.2, 1.4, 1.6, 1.8, 2]}}}}, nag: {{scale: {scale}}}}}\n"


def seconds(*arguments: str | Path, runs: int = 5) -> float:
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *map(str, arguments)], capture_output=True)
        found.append(time.perf_counter() - started)
        assert done.returncode in (0, 1), done.stderr.decode()
    return statistics.median(found)


def fill(sweep: Path, store: Path, share: float) -> int:
    """Create empty files in place of the sweep's blocks (planning reads only names); their number."""
    from orchestrator.plan.make import plan
    from orchestrator.spec.reader import read_sweep
    from orchestrator.store.store import Store

    planned, opened = plan(read_sweep(sweep)), Store(str(store))
    opened.open()
    count = 0
    for digest, blocks in planned.blocks.items():
        folder = Path(opened.path(f"blocks/{digest}"))
        folder.mkdir(parents=True)
        for number in range(int(blocks * share)):
            (folder / f"{number:06d}.safetensors").touch()
            count += 1
    return count


def planning(sweep: Path) -> None:
    """Plan in a process of its own, to measure its memory."""
    from orchestrator.plan.make import plan
    from orchestrator.spec.reader import read_sweep

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    planned = plan(read_sweep(sweep))
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocks = sum(planned.blocks.values()) // 2
    print(
        f"plan {len(planned.cells)} cells x {blocks // len(planned.cells)} blocks: {took:.2f} s (bound 2), "
        f"peak {peak / 1024:.0f} MB (bound 300), {(peak - before) / 1024:.0f} MB of it for the plan"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep, store = Path(folder) / "thousand.yaml", Path(folder) / "store"
        sweep.write_text(THOUSAND)
        digits = ROOT / "sweeps/digits.yaml"
        print(f"--help                         {seconds('--help'):.2f} s (bound 1)")
        print(f"check digits                   {seconds('check', digits):.2f} s (bound 1)")
        print(f"status digits, empty store     {seconds('status', digits, '--store', store / 'none'):.2f} s (bound 1)")
        print(f"check 1,000 cells              {seconds('check', sweep):.2f} s")
        subprocess.run([sys.executable, __file__, "planning", sweep], check=True)
        tuned = Path(folder) / "tuned.yaml"
        tuned.write_text(TUNED)
        took = seconds("plan", tuned, "--store", store / "none")
        print(f"plan 1,000 cells of 1,200 candidates   {took:.2f} s (bound 3)")
        count = fill(sweep, store, 0.5)
        status = seconds("status", sweep, "--store", store)
        print(f"status 1,000 cells x 50, {count:,} blocks there  {status:.2f} s (bound 1)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["planning"]:
        planning(Path(sys.argv[2]))
    else:
        main()
