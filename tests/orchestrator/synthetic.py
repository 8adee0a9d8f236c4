"""Synthetic results for pages and figures: of any sweep file, in the real dataclasses, nothing trained or sampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan, PlannedCell
from orchestrator.report.results import CellResult, Results, _stamp
from orchestrator.spec.parameters import is_training_seed
from orchestrator.spec.reader import read_sweep
from orchestrator.store.arrays import pack
from orchestrator.store.layout import block_name, file_name
from orchestrator.store.store import Store

SWEEP = """\
name: made
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1, 2]}}
sampler: {name: euler, steps: 10}
sample: {count: 1000, block: 100}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
arms:
  plain: {}
  cfg: {cfg: {scale: {grid: [1.25, 1.5, 2.0]}}}
  nag: {nag: {scale: {grid: [0.5, 1.0, 2.0, 3.0]}}}
  cfg_nag: {cfg: {scale: 1.25}, nag: {scale: 1.0}, against: cfg}
"""
DISTANCES = ("fid", "fid_held_out")
MEASURED = SWEEP.replace(
    "sampler: {name: euler, steps: 10}",
    """\
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 10, batch: 16, lr: 1e-3, seed: 100}
measure: {name: noise_shift, estimator: meter, count: 400}
network: sit
sampler: {grid: [{name: euler, steps: 25}, {name: heun, steps: 12}]}""",
)


def made(
    folder: Path,
    text: str = SWEEP,
    scored: Callable[[int], bool] = lambda place: True,
    nag_gain: float = 1.6,
    samples: bool = True,
) -> tuple[Results, Store]:
    """Results of every cell whose place `scored` allows. nag_gain: by how much NAG lowers the distance."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(text)
    planned = plan(read_sweep(folder / "sweep.yaml"))
    store = Store(str(folder / "store"))
    store.open()
    cells = []
    for place, cell in enumerate(planned.cells):
        result = CellResult(cell.cell.arm, cell.digest, cell.cell.params, complete=scored(place))
        cells.append(result)
        if result.complete:
            _score(planned, cell, result, nag_gain, store)
            if samples:
                _sample(planned, cell, store)
    floor = {
        name: {"value": 0.4 * scale, "count": 359, "extrapolated": 0.25 * scale}
        for name, scale in (("fid", 1.0), ("fid_pixels", 0.2))
    }
    return Results(planned, cells, floor if any(cell.complete for cell in cells) else {}), store


def _score(planned: Plan, cell: PlannedCell, result: CellResult, nag_gain: float, store: Store) -> None:
    params = result.params
    seed = next((int(value) for key, value in params.items() if is_training_seed(key)), 0)
    cfg, nag = float(params.get("cfg.scale", 1.0)) - 1, float(params.get("nag.scale", 0.0))
    noise = np.random.default_rng([seed, round(100 * cfg), round(100 * nag)])
    steps = cell.cell.sampler.steps
    fid = 6 + 4 / steps + 0.7 * (seed % 3) - nag_gain * nag * np.exp(-nag / 2.2) - 4 * cfg + 3.2 * cfg**2
    fid += 0.12 * noise.standard_normal()
    precision = 0.3 + 0.05 * nag + 0.25 * cfg + 0.008 * noise.standard_normal()
    recall = 0.66 - 0.012 * nag - 0.14 * cfg + 0.008 * noise.standard_normal()
    values = {"fid": fid, "fid_held_out": fid + 0.5, "precision": precision, "recall": recall}
    values["class_accuracy"] = 0.8 + 0.02 * nag
    result.network_calls = steps * (1 + (cfg > 0) + (nag > 0)) * type(cell.cell.sampler).order
    result.seconds, result.finished = 0.3 * result.network_calls, 1.75e9 + seed
    for scored in cell.scores:
        measured = planned.tasks[scored.task].kind == "measure"
        record = {"count": cell.cell.sample.count, "reference_size": 1438}
        stamp = _stamp(planned, scored, record)
        if measured:
            result.shift = _shift(scored.task, nag, cfg, seed, store)
        for name in scored.metric.names:
            scale = 0.2 if scored.suffix and name in DISTANCES else 1.0
            value = 0.02 - 0.008 * nag if measured else values.get(name, 0.0123) * scale
            half = 0.06 * abs(value) if name in DISTANCES or measured else None
            score = {
                "value": float(value),
                "low": None if half is None else float(value - half),
                "high": None if half is None else float(value + half),
                "extrapolated": float(value - 0.3) if name in DISTANCES else None,
                "reason": None,
            }
            if name in DISTANCES:  # read only where there is one training seed
                influence = 10 * np.random.default_rng([7, round(10 * nag), round(10 * cfg)]).standard_normal(1000)
                store.create(file_name(scored.task, "arrays.safetensors"), pack({"influence": influence}, {}))
            entry = {"score": score, "task": scored.task, "name": name, "stamp": stamp, "influence": "influence"}
            result.scores[name + scored.suffix] = entry


def _shift(task: str, nag: float, cfg: float, seed: int, store: Store) -> dict[str, Any]:
    """A shift that is largest late, where NAG lowers it, while NAG raises the early part."""
    t = np.linspace(0.96, 0.04, 24)
    delta = (0.04 + 0.003 * seed) * np.exp(-(((t - 0.16) / 0.3) ** 2)) * (1 - 0.3 * nag - 0.4 * cfg)
    delta += 0.009 * nag * np.exp(-(((t - 0.75) / 0.18) ** 2))
    noise = np.random.default_rng([seed, round(10 * nag), round(10 * cfg)])
    true = t[:, None] + 0.002 + 0.05 * np.sqrt(t)[:, None] * noise.standard_normal((len(t), 400))
    sampled = t[:, None] + delta[:, None] + 0.055 * np.sqrt(t)[:, None] * noise.standard_normal((len(t), 400))
    arrays = {"t": t, "sampled": sampled.astype(np.float32), "true": true.astype(np.float32)}
    store.create(file_name(task, "shift.safetensors"), pack(arrays, {}))
    found = sampled.mean(axis=1) - true.mean(axis=1)
    half = 1.96 * np.sqrt((sampled.var(axis=1) + true.var(axis=1)) / 400)
    bias = true.mean(axis=1) - t
    lists = {"t": t, "delta": found, "low": found - half, "high": found + half, "bias": bias}
    named = {key: array.tolist() for key, array in lists.items()} | {"count": 400}
    mode = {**named, "delta": (0.9 * found).tolist()}
    part = {**named, "delta": (0.7 * found).tolist(), "discretisation": (0.3 * found).tolist(), "times": 4}
    return named | {"estimator": "meter", "task": task, "mode": mode, "finer": part}


def _sample(planned: Plan, cell: PlannedCell, store: Store) -> None:
    params = planned.tasks[cell.stream].params
    labels = np.random.default_rng(params["seed"]).integers(0, 10, params["block"])
    y, x = np.mgrid[0:8, 0:8]
    wave = np.stack([127.5 * (1 + np.sin(x * (0.4 + 0.12 * k) + y * 0.5 * (k % 3))) for k in labels])
    arrays = {"samples": wave[:, None].round().astype(np.uint8), "labels": labels.astype(np.int64)}
    store.create_arrays(block_name(cell.stream, 0), arrays, {})
