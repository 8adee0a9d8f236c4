"""Two small sweeps that share a store, run once: trainings, an estimator, code of a user's own, a given checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.orchestrator.conftest import metrics
from tests.robustness.cases import ROOT
from tests.robustness.damaged_yaml import CODE

SWEEPS = {
    "kept": """\
name: kept
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-3, seed: 100}
network: sit
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [{name: digits, steps: 5}, pixels], metrics: [fid, precision_recall, class_accuracy]}
measure: {name: noise_shift, estimator: meter, count: 20}
arms:
  plain: {}
  own: {own: {use: ./code.py:Own, scale: 1.0}}
""",
    "given": """\
name: given
networks:
  given: {checkpoint: given.safetensors, data: {name: digits}}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels], metrics: [fid, kid]}
arms:
  plain: {}
  cfg: {cfg: {scale: 1.5}}
""",
}
RUN_S = 90.0


class Finished:
    """The sweeps, their store and their numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.numbers: dict[str, Any] = {}
        (folder / "code.py").write_text(CODE)
        for name, text in SWEEPS.items():
            (folder / f"{name}.yaml").write_text(text)
        for name in SWEEPS:
            self._command("run", name, "--tracking", "none")
            self.numbers[name] = metrics(json.loads(self._command("report", name, "--tracking", "none", "--json")))
            if name == "kept":
                networks = [p for p in self.store.glob("files/*/network.safetensors") if _generates(p)]
                shutil.copyfile(networks[0], folder / "given.safetensors")
        assert all(self.numbers.values())

    def _command(self, name: str, sweep: str, *options: str) -> str:
        words = [sys.executable, "-m", "orchestrator.cli", name, f"{self.folder / sweep}.yaml", "--store", self.store]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*map(str, words), *options], capture_output=True, text=True, cwd=self.folder, env=env, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _generates(path: Path) -> bool:
    return b"noise_level" not in path.read_bytes()[:2000]
