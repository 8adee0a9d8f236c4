"""A sweep to make mistakes in, and the reader's message."""

from __future__ import annotations

from pathlib import Path

import pytest

from nag.registry import METHODS
from orchestrator.errors import BadInput
from orchestrator.spec.reader import read_sweep

SWEEP = """\
name: digits
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 500, batch: 128, lr: 2e-3, noise_dropout: 0.15, class_dropout: 0.1, seed: {grid: [0, 1, 2]}}
sampler: {name: euler, steps: 10}
sample: {count: 1000, block: 100, seed: 0}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
arms:
  plain: {}
  cfg: {cfg: {scale: {grid: [1.25, 1.5]}}}
  nag: {nag: {scale: {grid: [1.0, 2.0]}}}
  both: {cfg: {scale: 1.75}, nag: {scale: 1.0}, against: cfg}
"""

DATA = "data: {name: digits}"
SMALL = "{name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}"
SAMPLER = "{name: euler, steps: 10}"
FEATURES = "[digits, pixels]"
METRICS = "[fid, precision_recall, class_accuracy]"
PLAIN = "plain: {}"
PRE = "  sit:"
CFG = "cfg: {scale: 1.75}"
MANY = "{grid: [" + ", ".join(map(str, range(1, 400))) + "]}"


def known(family: str, *more: str) -> str:
    return ", ".join(sorted((*METHODS[family], *more)))


SAMPLERS = f"Known: {known('samplers')}."
DATASETS = f"Known: {known('datasets')}."
TOP = (
    "Known: arms, compare, keep, measure, name, network, networks, precision, published, sample, sampler, score, tune."
)


def message(text: str) -> str:
    Path("x.yaml").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_sweep("x.yaml")
    return str(caught.value)


def said(right: str, wrong: str) -> str:
    """The message for the sweep with `wrong` in place of `right`."""
    assert right in SWEEP
    return message(SWEEP.replace(right, wrong, 1))
