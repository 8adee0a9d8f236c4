"""Every sweep can be planned, and its header has command, cost and answer; the numbers of papers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from orchestrator.backends.site import read_site
from orchestrator.backends.slurm.forecast import forecast
from orchestrator.backends.slurm.settings import Stage
from orchestrator.execution.durations import Speeds
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.yaml_nodes import parse
from orchestrator.store.store import Store

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))


def test_there_are_sweeps() -> None:
    assert SWEEPS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("smoke", [False, True])
def test_it_plans(path: Path, smoke: bool) -> None:
    planned = plan(read_sweep(path, smoke=smoke))
    assert planned.cells
    assert planned.goals
    seen: set[str] = set()
    for digest, task in planned.tasks.items():
        assert set(task.inputs) <= seen, "inputs come first"
        seen.add(digest)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_header(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    name = path.relative_to(ROOT)
    assert f"nagbench run {name}" in header
    assert re.search(r"\d+ CPU cores: about \d+ minutes|GPU hours", header), "what it costs"
    assert re.search(r"(?i)answer", header), "what came out"


HOURS = {path: found[1] for path in SWEEPS if (found := re.search(r"GPU hours: about ([\d,]+)", path.read_text()))}


def test_those_of_the_paper_and_of_official_weights_need_gpus() -> None:
    assert set(HOURS) == {path for path in SWEEPS if path.parent.name in ("paper", "verify")}
    assert len(HOURS) >= 6


@pytest.mark.parametrize("path", HOURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_gpu_hours(path: Path, tmp_path: Path) -> None:
    """The estimate of `plan --site sites/slurm.yaml` without measurements, in two digits."""
    site = read_site(str(ROOT / "sites/slurm.yaml"))
    found = forecast(plan(read_sweep(path)), Store(str(tmp_path / "none")), site.settings)
    assert float(HOURS[path].replace(",", "")) == pytest.approx(found.gpu_hours, rel=0.05, abs=5)


def test_a_training_on_more_gpus_is_shorter_and_no_dearer(tmp_path: Path) -> None:
    """By the guess, and by the record of a training on four devices that was resumed from a checkpoint."""
    planned, store = plan(read_sweep(ROOT / "sweeps/paper/scratch.yaml")), Store(str(tmp_path / "store"))
    store.open()
    one, eight = read_site(str(ROOT / "sites/slurm.yaml")).settings, Stage(gpus=4, nodes=2)
    wide = dataclasses.replace(one, stages=dataclasses.replace(one.stages, train=eight))

    def told() -> tuple[float, float]:
        narrow, shared = (forecast(planned, store, site) for site in (one, wide))
        assert shared.gpu_hours == pytest.approx(narrow.gpu_hours, rel=0.01)
        trained = [array.seconds for found in (narrow, shared) for array in found.arrays if array.kind == "train"]
        assert sum(trained[len(trained) // 2 :]) == pytest.approx(sum(trained[: len(trained) // 2]) / 8)
        return narrow.gpu_hours, sum(trained[: len(trained) // 2]) / 3600

    guessed = told()
    trainings = [task for task in planned.tasks.values() if task.trains == "network"]
    task = next(each for each in trainings if each.params["train"]["fields"]["steps"] == 100_000)
    record = {"started": 0.0, "seconds": 3600.0, "processes": 4, "resumed_at": 90_000, "files": {}}
    store.create_record(task.record_name, record)
    assert Speeds(planned, store, Done(store)).task_s(task.digest) == pytest.approx(40 * 3600)
    assert told() != guessed


REFERENCE = sorted((ROOT / "results/reference").glob("*.yaml"))


def test_the_papers_numbers_are_used() -> None:
    named = {
        (path.parent / found[1]).resolve()
        for path in SWEEPS
        for found in re.finditer(r"published: (\S+)", path.read_text())
    }
    assert named == set(REFERENCE)


@pytest.mark.parametrize("name", ["nag_table1", "nag_table2", "official"])
def test_they_say_where_they_are_from(name: str) -> None:
    text = (ROOT / f"results/reference/{name}.yaml").read_text()
    root = parse(text, name)
    assert re.search(r"arXiv \d{4}\.\d{5}", root.value["source"].value)
    assert root.value["count"].value in (10_000, 50_000)
    unknown = root.value["protocol"].value.startswith("unknown")
    assert unknown == name.startswith("nag_"), "the paper does not say how it measured"
    assert ("tolerance" in text) == (name == "official")


def test_the_means_of_table_2() -> None:
    """Copied correctly: the seven numbers of each method have the mean in the paper, which the file quotes."""
    text = (ROOT / "results/reference/nag_table2.yaml").read_text()
    found: dict[str, list[float]] = {}
    for arm, value in re.findall(r"arm: (\w+), .*fid: ([\d.]+)", text):
        found.setdefault(arm, []).append(float(value))
    head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    printed = {arm: float(mean) for arm, mean in re.findall(r"(\w+) (\d+\.\d\d)", head)}
    assert printed.keys() == found.keys()
    for arm, values in found.items():
        assert len(values) == 7
        assert sum(values) / 7 == pytest.approx(printed[arm], abs=0.01)
