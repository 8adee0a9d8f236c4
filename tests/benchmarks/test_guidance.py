"""Guidance with k branches costs at most 1.02 times k evaluations of the network, at batch 16 of a real size."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.guidance import LEFT_OUT, Free, Priced, networks, seconds
from nag.registry import METHODS

BATCH, BOUND = 16, 0.02


@pytest.fixture(scope="module")
def real() -> Iterator[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield networks("S/8")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def evaluation(real: dict[str, Any]) -> float:
    """CPU seconds of one evaluation of the network, the fastest of three."""
    plain = Priced("epsilon_scaling", real, BATCH)
    return min(seconds(partial(plain.plainly, real["own"])) for _ in range(3))


@pytest.mark.parametrize("name", [name for name in METHODS["guidance"] if name not in LEFT_OUT])
def test_what_a_method_adds_to_its_evaluations(name: str, real: dict[str, Any], evaluation: float) -> None:
    """The same call with networks that cost nothing, at the bound of the share that its evaluations allow."""
    free = {each: dataclasses.replace(field, module=Free(field.module)) for each, field in real.items()}
    priced = Priced(name, free, BATCH)
    own = statistics.median(seconds(priced.guided) for _ in range(15))
    plain = statistics.median(seconds(partial(priced.plainly, free["own"])) for _ in range(15))
    assert own - plain <= BOUND * priced.evaluations * evaluation
