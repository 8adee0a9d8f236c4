"""Tests run as workers do, on one thread, so that their numbers are the ones of a worker to the last bit."""

from __future__ import annotations

import gc
import os

gc.disable()  # until all tests are collected: looking for cycles among what stays is a quarter of that time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)

import pytest  # noqa: E402

from nag import locations  # noqa: E402

locations.allow_memory()

MAY_BE_AWAY = "vectors of the official"  # files beside the checkout that no user has

LONGEST = (  # by the seconds that they take
    *("test_outermost.py", "test_report_pages.py", "test_examples.py", "test_kills.py", "test_runs.py"),
    *("test_races.py", "test_docs.py", "test_evaluation_published.py", "test_processes.py", "test_gpu.py"),
    *("test_distributed.py", "test_engine.py", "test_intervals.py", "test_cli.py", "test_equal_price.py"),
    *("test_measured.py", "test_metrics_neighbours.py", "test_sweeps.py", "test_stored_plan.py", "test_backends.py"),
    *("test_ddpm_ddim.py", "test_architecture.py", "test_by_class.py", "test_containers.py", "test_addresses.py"),
)


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: of two that run at once, none is left alone with one of them at the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI every part is there, so a test that skips for want of one has failed."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and MAY_BE_AWAY not in str(report.longrepr):
        report.outcome = "failed"
    return report
