"""What tasks have used, and what a site should request for it. Slurm is not needed."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import pytest

from nag.gpu_load import GpuLoad, _Utilization, utilization
from orchestrator.backends.slurm.forecast import forecast
from orchestrator.backends.slurm.measured_use import Measured, from_records, site_lines
from orchestrator.backends.slurm.settings import SlurmSettings, Stage, Stages
from orchestrator.backends.slurm.slurm_output import parse_usage
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.tasks import context, sample
from orchestrator.tasks.used import used
from tests.orchestrator.conftest import run_here
from tests.slurm.running import SMALL, changed


@pytest.mark.parametrize(
    ("measured", "keys"),
    [
        (Measured(), {}),
        (Measured(host_gb=9.1, minutes=40, cpus=3.2), {"minutes": 60, "memory_gb": 12, "cpus": 4}),
        (Measured(minutes=0.2), {"minutes": 10}),
        (Measured(gpu_busy=0.2, gpu_gb=4.0, gpu_has_gb=80.0, host_gb=2.0), {"memory_gb": 12, "per_gpu": 4}),
        (Measured(gpu_busy=0.01, gpu_gb=40.0, gpu_has_gb=80.0), {}),  # a second process does not fit
        (Measured(gpu_busy=0.01, gpu_gb=30.0, gpu_has_gb=80.0), {"per_gpu": 2}),
        (Measured(gpu_busy=0.01, gpu_gb=0.1, gpu_has_gb=80.0), {"per_gpu": 8}),
        (Measured(gpu_busy=0.95, gpu_gb=4.0, gpu_has_gb=80.0), {}),
    ],
)
def test_what_fits(measured: Measured, keys: dict[str, int]) -> None:
    assert measured.proposed(None) == keys


def test_a_limit_is_longer_than_the_target() -> None:
    assert Measured(minutes=3).proposed(30.0) == {"minutes": 45}


def test_lines_of_a_site_file_by_network_where_there_are_several() -> None:
    lines = site_lines(
        {("train", "s"): {"cpus": 1}, ("train", "xl"): {"cpus": 8}, ("sample", "xl"): {"per_gpu": 2}, ("score", ""): {}}
    )
    assert lines == [
        *("stages:", "  sample: {per_gpu: 2}", "  score: {}", "networks:"),
        *("  s: {train: {cpus: 1}}", "  xl: {train: {cpus: 8}}"),
    ]


def test_plan_proposes_by_what_records_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine without a GPU, what tasks used of one is put into their records as a GPU would have it."""
    gpu = {"gpu_gb": 4.0, "gpu_has_gb": 80.0, "gpu_busy": 0.2}
    for module in (context, sample):
        monkeypatch.setattr(module, "used", lambda device, started: {**used(device, started), **gpu})
    (tmp_path / "sweep.yaml").write_text(SMALL)
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    (tmp_path / "sweep.yaml").write_text(changed(SMALL, "count: 40", "count: 80"))
    planned = plan(read_sweep(str(tmp_path / "sweep.yaml")))
    measured = from_records(planned, ran.store)
    assert measured["train", "sit"].gpu_gb == measured["sample", "sit"].gpu_gb == 4.0
    assert 0.05 < (measured["train", "sit"].host_gb or 0) < 20
    shown = "\n".join(forecast(planned, ran.store, SlurmSettings()).fits)
    assert "sample: {minutes: 45, memory_gb: " in shown
    assert "per_gpu: 4}" in shown
    wanted = measured["sample", "sit"].proposed(None)
    fitting = Stage(minutes=45, memory_gb=wanted["memory_gb"], per_gpu=4)
    right = forecast(planned, ran.store, SlurmSettings(stages=Stages(sample=fitting))).fits
    assert "sample" not in "\n".join(right)


def test_memory_without_a_gpu_says_nothing_of_a_stage_with_one(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SMALL)
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    (tmp_path / "sweep.yaml").write_text(changed(SMALL, "count: 40", "count: 80"))
    planned = plan(read_sweep(str(tmp_path / "sweep.yaml")))
    on_gpu, on_cpu = SlurmSettings(), SlurmSettings(stages=Stages(train=Stage(gpus=0)))
    assert not any("train" in line for line in forecast(planned, ran.store, on_gpu).fits)
    assert any("train: {memory_gb: " in line for line in forecast(planned, ran.store, on_cpu).fits)


def test_what_sacct_says_was_used() -> None:
    header = "JobID|ElapsedRaw|TotalCPU|MaxRSS|TRESUsageInAve"
    rows = parse_usage(
        f"banner\n{header}\n7_0|90|01:02.500||\n7_0.0|88|1-00:00:01|2097152K|cpu=00:00:10,gres/gpuutil=37,mem=2G\n"
    )
    assert [(row.id, row.elapsed_s, row.cpu_s, row.memory_gb, row.gpu_busy) for row in rows] == [
        ("7_0", 90.0, 62.5, None, None),
        ("7_0", 88.0, 86401.0, 2.0, 0.37),
    ]


class Driver:
    """NVIDIA's library as far as it is called, for a GPU that is busy for 40 % of the time."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.asked = code, b""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked = uuid
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, reading: Any) -> int:
        ctypes.cast(reading, ctypes.POINTER(_Utilization))[0].gpu = 40
        return self.code


def test_the_load_of_a_gpu_is_what_its_driver_says() -> None:
    driver = Driver()
    read = utilization("ab-cd", lambda name: driver)
    assert read is not None
    assert (read(), driver.asked) == (0.4, b"GPU-ab-cd")
    load = GpuLoad(read, 0.01)
    end = time.monotonic() + 60
    while load.mean(60) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert load.mean(60) == pytest.approx(0.4)
    assert load.mean(-1) is None
    assert utilization("ab", lambda name: Driver(code=3)) is None  # a part of a GPU (MIG)


def test_without_a_driver_it_is_not_known() -> None:
    def none(name: str) -> Any:
        raise OSError(name)

    assert utilization("ab", none) is None
