"""Metrics over pairs on another device: the numbers of the CPU, and no tensor is left where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nag.metrics import cache, neighbours
from nag.metrics.authenticity import Authenticity
from nag.metrics.cmmd import CMMD
from nag.metrics.density_coverage import DensityCoverage
from nag.metrics.kid import KID
from nag.metrics.memorisation import Memorisation
from nag.metrics.precision_recall import PrecisionRecall
from tests.nag.stand_in_device import DEVICE, StandIn

METRICS = (KID(), PrecisionRecall(), DensityCoverage(), Memorisation(), Authenticity(), CMMD())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
def test_it_is_that_of_the_cpu(metric: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows, near ties and several tiles included; float32 takes the bounds, float64 the distances."""
    monkeypatch.setattr(neighbours, "FEW", 100)
    monkeypatch.setattr(neighbours, "ROWS", 64)
    monkeypatch.setattr(neighbours, "COLUMNS", 16)
    monkeypatch.setattr(neighbours, "exact", lambda product, device: product)  # torch has no autocast for the stand-in
    generator = np.random.default_rng(0)
    x, r, held_out = (generator.normal(mean, 1, (n, 12)).astype(dtype) for mean, n in ((0.3, 150), (0, 170), (0, 40)))
    x[:5], r[10:13] = r[:5], r[0]
    samples, reference = {"features": x}, {"features": r, "held_out": held_out}
    expected = metric(samples, reference)
    monkeypatch.setattr(cache, "_kept", {})
    with StandIn(), neighbours.computed_on(DEVICE):
        assert {side.device for side in neighbours.seen(x, r)} == {DEVICE}
        found = metric(samples, reference)
    assert found["values"] == expected["values"]
    for name, array in expected["arrays"].items():
        np.testing.assert_array_equal(found["arrays"][name], array)


def test_a_device_without_float64_leaves_pairs_to_the_cpu() -> None:
    rows = np.ones((3, 2), np.float32)
    with neighbours.computed_on("mps"):
        assert {side.device for side in neighbours.seen(rows, rows)} == {"cpu"}
