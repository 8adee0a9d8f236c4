"""python -m benchmarks.report_300      writes the report of a synthetic sweep of 300 cells; prints seconds and MB."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from orchestrator.report.comparisons import compare
from orchestrator.report.write import write_report
from tests.orchestrator.synthetic import made

SWEEP = """\
name: cells_300
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1, 2]}}
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 10, batch: 16, lr: 1e-3, seed: 100}
network: sit
sampler:
  grid: [{name: euler, steps: 10}, {name: euler, steps: 25}, {name: heun, steps: 12}, {name: euler_maruyama, steps: 50}]
sample: {count: 1000, block: 100}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
measure: {name: noise_shift, estimator: meter, count: 400}
arms:
  plain: {}
  cfg: {cfg: {scale: {grid: [1.1, 1.25, 1.5, 1.75, 2.0]}}}
  nag: {nag: {scale: {grid: [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]}}}
  cfg_nag: {cfg: {scale: {grid: [1.1, 1.25, 1.5]}}, nag: {scale: {grid: [0.5, 1.0, 1.5, 2.0]}}, against: cfg}
"""
MOST_S, MOST_MB = 20.0, 15.0


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        results, store = made(Path(folder) / "sweep", SWEEP)
        started = time.perf_counter()
        comparisons = compare(results, store)
        compared_s = time.perf_counter() - started
        page = write_report(results, comparisons, store, Path(folder) / "report", "nagbench report cells_300.yaml")
        whole_s = time.perf_counter() - started
        whole_mb = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file()) / 1e6
        page_mb = page.stat().st_size / 1e6
    print(f"{len(results.cells)} cells: {whole_s:.1f} s ({compared_s:.1f} s of it to compare), at most {MOST_S:.0f}")
    print(f"report.html {page_mb:.1f} MB, with its other files {whole_mb:.1f} MB, at most {MOST_MB:.0f}")
    return 0 if whole_s <= MOST_S and whole_mb <= MOST_MB else 1


if __name__ == "__main__":
    sys.exit(main())
