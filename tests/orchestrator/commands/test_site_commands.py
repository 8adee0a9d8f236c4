"""Commands with a site, without a cluster: forecasts, and options that exclude each other."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nag.hardware import processor
from orchestrator.backends import kinds
from orchestrator.backends import site as site_files
from orchestrator.backends.ray import site_kind as ray_kind
from orchestrator.backends.site_kind import Queued
from orchestrator.backends.slurm import site_kind as slurm_kind
from orchestrator.commands import status as status  # registers itself
from orchestrator.commands.app import app
from tests.orchestrator.conftest import Ran, nagbench

SLURM = "kind: slurm\npartition: gpu\ncpu_partition: cpu\nthrottle: 2\n"
RAY = "kind: ray\naddress: 127.0.0.1:9\njobs: http://127.0.0.1:9\n"
BELONGS = (
    "--here, --workers, --device, --backend and --processes are for this machine; "
    "with --site, set these in the site file"
)
UNCOUNTED = "--max-gpu-hours: GPU hours are counted only at sites of kind slurm"


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Path]:
    def made(text: str) -> Path:
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return path

    return made


def test_plan_says_what_it_will_take(
    finished: Ran, write: Callable[..., Path], site: Callable[[str], Path], tmp_path: Path
) -> None:
    """From measured speeds if there are any; others are marked as guesses."""
    shutil.copytree(finished.store.root, tmp_path / "store")
    options = ("--store", tmp_path / "store", "--site", site(SLURM))
    none = json.loads(nagbench("plan", write(), *options, "--json").stdout)["site"]
    assert none.pop("guessed_by") == "a guess at an A100"
    assert none.pop("measured_on") == [processor()]
    assert none == {"stages": [], "gpu_hours": 0.0, "makespan_seconds": 0, "guessed": [], "fits": [], "faster": ""}
    more = write("count: 40", "count: 4000")
    said = nagbench("plan", more, *options).stdout
    words = r"arrays?, [\d,]+ array tasks?, [\d.]+ GPU hours, [\d.]+ hours if nobody else is in the queue\."
    assert re.search(words, said)
    assert f"Speeds were measured on {processor()}." in " ".join(said.split())
    assert "Disk for its cells: " in said
    assert re.search(r"in [\d,]+ files", said)
    told = json.loads(nagbench("plan", more, *options, "--json").stdout)["site"]
    assert [stage["stage"] for stage in told["stages"]] == ["sample", "score"]
    assert "sample" not in told["guessed"]
    assert told["makespan_seconds"] > 0
    new = write("hidden: 16", "hidden: 24", name="new.yaml")
    assert "The time of " in (guessed := nagbench("plan", new, *options).stdout)
    assert "is a guess: no such task was measured yet." in guessed
    assert "How fast networks are is taken from a guess at an A100." in guessed
    of_h100 = ("--store", tmp_path / "store", "--site", site(SLURM + "gres: gpu:h100:{gpus}\n"))
    guess = "samples more than 2.7 times as fast on NVIDIA H100 80GB HBM3"  # float32 was not measured there
    assert guess in " ".join(nagbench("plan", new, *of_h100).stdout.split())
    fast = write("score:", "precision: {dtype: bfloat16, compile: true}\nscore:", name="fast.yaml")
    fast.write_text(fast.read_text().replace("hidden: 16", "hidden: 24"))
    told = json.loads(nagbench("plan", fast, *of_h100, "--json").stdout)["site"]
    assert told["faster"] == ""
    assert told["guessed_by"].startswith("benchmarks.gpu on NVIDIA H100 80GB HBM3, torch 2.11.0")


def test_plan_says_both_what_is_sampled_again_and_what_it_will_take(
    finished: Ran, write: Callable[..., Path], site: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(finished.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("blocks"))
    more = write("class_accuracy]", "class_accuracy, density_coverage]")
    said = nagbench("plan", more, "--store", tmp_path / "store", "--site", site(SLURM)).stdout
    assert "8 cells have scores, but their samples or features were removed" in said
    assert "GPU hours" in said


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        (("run", "--workers", "2"), SLURM, BELONGS),
        (("run", "--here"), SLURM, BELONGS),
        (("run", "--device", "cpu"), RAY, BELONGS),
        (("run", "--backend", "ray"), RAY, BELONGS),
        (("run", "--max-gpu-hours", "1"), RAY, UNCOUNTED),
        (("run", "--max-gpu-hours", "1"), "", UNCOUNTED),
        (("submit", "--max-gpu-hours", "1"), RAY, UNCOUNTED),
        (("submit",), "kind: local\n", "kind 'local' has no queue; nagbench run --site does the sweep there."),
        (("run",), "kind: ray\n", "address is missing: HOST:6379, as `ray start --head` prints it"),
        (("submit",), "kind: ray\n", "jobs is missing: the address of Ray's Job API, such as http://head:8265"),
        (("cancel",), "kind: local\n", "nothing is queued at a site of kind 'local'; Ctrl-C ends a run there."),
        (("cancel", "--arm", "nag"), RAY, "--arm, --cell: a Ray job runs the whole sweep; cancel it without them."),
    ],
)
def test_what_does_not_go_together(
    write: Callable[..., Path],
    site: Callable[[str], Path],
    tmp_path: Path,
    options: tuple[str, ...],
    text: str,
    message: str,
) -> None:
    command, *more = options
    tracking = () if command == "cancel" else ("--tracking", "none")
    where = ("--site", site(text)) if text else ()
    done = nagbench(command, write(), *where, "--store", tmp_path / "store", *tracking, *more)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert not (tmp_path / "store" / "plans").exists(), "nothing half queued"


def test_a_ray_cluster_that_is_away(write: Callable[..., Path], site: Callable[[str], Path], tmp_path: Path) -> None:
    """The rest of the output still comes, from the store."""
    options = ("--store", tmp_path / "store", "--site", site(RAY))
    status = nagbench("status", write(), *options)
    assert status.returncode == 0, status.stderr
    assert "Cells: 0 of 8 done, 0 failed, 8 to do." in status.stdout
    assert "Ray cannot tell what is queued: no Ray cluster answers at 127.0.0.1:9: " in status.stdout
    for command in (("submit", "--tracking", "none"), ("run", "--tracking", "none"), ("logs",), ("cancel",)):
        done = nagbench(command[0], write(), *options, *command[1:])
        assert done.returncode == 3, done.stdout
        assert "no Ray cluster answers at 127.0.0.1:9: " in done.stderr
    doctor = json.loads(nagbench("doctor", *options, "--json").stdout)
    rows = {row["name"]: row for row in doctor["rows"]}
    assert (rows["address"]["state"], rows["jobs"]["state"], doctor["ok"]) == ("warning", "missing", False)


def test_every_kind_of_site_is_in_both_tables() -> None:
    """The table of settings and the table of site kinds."""
    assert kinds.KINDS.keys() == site_files.KINDS.keys()


LOCAL = "kind: local\n"


def test_a_local_site_has_no_queue_and_the_rows_of_this_machine(
    write: Callable[..., Path], site: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ("--store", tmp_path / "store", "--site", site(LOCAL))
    (tmp_path / "empty").mkdir()
    for library in ("torch", "sklearn", "scipy", "matplotlib", "mlflow", "submitit", "ray"):  # to import takes seconds
        (tmp_path / "empty" / f"{library}.py").touch()
    quick = os.environ | {"PYTHONPATH": str(tmp_path / "empty")}
    doctor = nagbench("doctor", *options, "--tracking", "none", env=quick).stdout
    names = set(re.findall(r"^ (\w+)", doctor, re.MULTILINE))
    assert {"Python", "machine", "store"} <= names
    assert not {"site", "job", "jobs", "address"} & names
    assert "No logs of this sweep" in nagbench("logs", write(), *options).stdout


def test_status_names_who_does_not_say_what_is_queued(
    write: Callable[..., Path], site: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm being away concerns neither a Ray cluster nor this machine."""
    monkeypatch.setattr(slurm_kind, "queue_states", lambda *_: Queued(unknown="squeue is away"))
    monkeypatch.setattr(ray_kind.jobs, "status", lambda *_: [])

    def said(*where: object) -> str:
        arguments = ["status", str(write()), "--store", str(tmp_path / "store"), *map(str, where)]
        return CliRunner().invoke(app, arguments, catch_exceptions=False).output

    assert "Slurm cannot tell what is queued: squeue is away" in said()
    assert "Slurm cannot tell what is queued: squeue is away" in said("--site", site(SLURM))
    for text in (RAY, LOCAL):
        assert "Cells: 0 of 8 done" in said("--site", site(text))
        assert "does not say" not in said("--site", site(text))
