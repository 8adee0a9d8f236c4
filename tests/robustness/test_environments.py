"""Environments, output channels and limits that nobody has on purpose, each with a command in a process of its own."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.robustness.cases import Case, Outcome, Step, check, stream
from tests.robustness.finished import RUN_S, Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOLDERS = (
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "MPLCONFIGDIR",
    "TORCH_HOME",
    "HF_HOME",
)
NUMBERS = (
    *("SOURCE_DATE_EPOCH", "COLUMNS", "LINES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NAGBENCH_RANK", "NAGBENCH_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"),
    *("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "CUDA_VISIBLE_DEVICES"),
)
WORDS = (
    *("MPLBACKEND", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "PATH", "NO_COLOR", "FORCE_COLOR"),
    *(
        "MASTER_ADDR",
        "RAY_ADDRESS",
        "AWS_PROFILE",
        "http_proxy",
        "https_proxy",
        "EDITOR",
        "PAGER",
        "CI",
        "MLFLOW_RUN_ID",
    ),
    *("NAGBENCH_STORE", "NAGBENCH_TRACKING", "MLFLOW_TRACKING_URI", "TORCH_DEVICE_BACKEND_AUTOLOAD"),
)
ODD = (
    *(
        None,
        "",
        " ",
        "x",
        "-1",
        "0",
        "1",
        "nan",
        "1e9",
        "999999999999",
        "/dev/null",
        "/dev/full",
        "/nonexistent/x",
        "relative/x",
    ),
    *(
        "~",
        "module://nothing",
        "\x1b[31mred",
        "é",
        "\udcff",
        "x" * 5000,
        "a\nb",
        "/etc/passwd",
        "/proc",
        "/sys",
        "Agg",
        "C",
        "dumb",
    ),
)
CHANNELS = ("closed", "/dev/full", "gone")
LIMITS = (
    *(
        {"RLIMIT_FSIZE": 0},
        {"RLIMIT_FSIZE": 3000},
        {"RLIMIT_FSIZE": 100_000},
        {"RLIMIT_NOFILE": 12},
        {"RLIMIT_NOFILE": 30},
    ),
    *({"RLIMIT_DATA": 60 << 20}, {"RLIMIT_DATA": 200 << 20}, {"RLIMIT_CORE": 0}),
)
COMMANDS = (
    *(
        ["check"],
        ["check", "--json"],
        ["plan"],
        ["plan", "--json"],
        ["status"],
        ["status", "--json"],
        ["report"],
        ["report", "--json"],
    ),
    *(
        ["logs"],
        ["du"],
        ["du", "--json"],
        ["gc"],
        ["gc", "--json"],
        ["export"],
        ["run"],
        ["init"],
        ["fetch"],
        ["--help"],
    ),
)
LOADS = ("report", "export", "run", "du")


class Environment(Case):
    def __init__(self, number: int, finished: Finished, folder: Path) -> None:
        self.finished, self.chance = finished, stream("environment", number)
        super().__init__("environment", number, "", folder)
        self.target = folder / "work" / "out.zip"

    def make(self) -> list[Step]:
        shutil.copytree(self.finished.store, self.folder / "work" / "results" / "store")
        for name in ("kept.yaml", "code.py"):
            shutil.copyfile(self.finished.folder / name, self.folder / "work" / name)
        words = self.chance.choice(COMMANDS)
        name = words[0]
        sweep = [] if name in ("gc", "init", "fetch", "--help") else ["kept.yaml"]
        target = ["out.zip"] if name == "export" else ["new.yaml"] if name == "init" else []
        tracking = ["--tracking", "none"] if name in ("report", "run") else []
        limit_s = RUN_S if name in LOADS else 20.0
        self.step = step = Step([name, *sweep, *target, *tracking, *words[1:]], limit_s=limit_s, real=True, heavy=True)
        self.words = " ".join(step.argv)
        kind = self.chance.random()
        if kind < 0.55:
            self._variables(step)
        elif kind < 0.80:
            self._channels(step)
        elif kind < 0.92:
            step.limits = dict(self.chance.choice(LIMITS))
        else:
            step.interrupt_s = self.chance.random() * 1.2
        self.words += f" {step.env} {step.limits} {step.stdout} {step.stderr} {step.interrupt_s or ''}".rstrip()
        return [step]

    def _variables(self, step: Step) -> None:
        for name in self.chance.sample((*FOLDERS * 2, *NUMBERS, *WORDS), self.chance.choice((1, 1, 2, 4))):
            step.env[name] = self.chance.choice(ODD)

    def _channels(self, step: Step) -> None:
        which = self.chance.choice(("stdout", "stdout", "stdout", "stderr", "both"))
        if which in ("stdout", "both"):
            step.stdout = self.chance.choice(CHANNELS)
        if which in ("stderr", "both"):
            step.stderr = self.chance.choice(CHANNELS)

    def judge(self, outcomes: list[Outcome]) -> list[str]:
        (outcome,), found = outcomes, []
        if self.step.stdout == "/dev/full" and outcome.code == 0:
            found.append("exit code 0, and its output went nowhere")
        if outcome.code == 0 and "out.zip" in self.words:
            try:
                with zipfile.ZipFile(self.target) as packed:
                    broken = packed.testzip()
            except (OSError, zipfile.BadZipFile) as error:
                broken = str(error)
            if broken:
                found.append(f"exit code 0, and what it exported is broken: {broken}")
        return found


def test_environments(finished: Finished, tmp_path: Path) -> None:
    check(lambda number: Environment(number, finished, tmp_path / str(number)), "environment", 50)
