"""One bundle on a private Ray of whatever version is installed: `make lower-bounds` runs it with the oldest one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.backends.ray.backend import Ray
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import Quiet

SWEEP = """\
name: oldest
networks: {sit: {data: {name: digits}, model: {name: sit, hidden: 32, depth: 1, heads: 2, patch: 2},
  train: {steps: 2, batch: 8, noise_dropout: 0.2}}}
sampler: {name: euler, steps: 2}
sample: {count: 16, block: 8}
arms: {plain: {}, nag: {nag: {scale: 2}}}
"""


def test_a_sweep(ray_environment: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    planned: Plan = plan(read_sweep(tmp_path / "sweep.yaml"))
    store = Store(str(tmp_path / "store"))
    assert engine.run(planned, store, lambda: Ray(store, Options(device="cpu"), cpus=1), Quiet()) == {}
    assert len(list((tmp_path / "store").glob("blocks/*/0*"))) >= 4
