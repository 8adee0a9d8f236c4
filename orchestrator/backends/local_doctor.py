"""Check this machine: what works, what is missing, and the fix for each.

Libraries are imported in processes of their own, with a time limit, so that a broken installation is a row. Programs
are called, not only looked for: a Slurm that does not answer is not usable.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.backends.cards import cards, default_workers, mapping
from orchestrator.backends.doctor_rows import DoctorRow, weights
from orchestrator.display import address
from orchestrator.errors import NagbenchError
from orchestrator.store.store import Store
from orchestrator.tracking.address import NONE, written_state

IMPORT_S = 120.0  # torch from a cold network file system
ASK_S = 10.0
LEAST_GB = 5

TORCH = """
import json, torch
devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    devices.append("mps")
if not devices:
    from nag.hardware import unusable
    devices.append(f"cpu only: {unusable()}")
print("\\n" + json.dumps([torch.__version__, ", ".join(devices)]))
"""
LIBRARY = 'import json, {0}\nprint("\\n" + json.dumps([getattr({0}, "__version__", ""), ""]))'

# name, module, package to install, whether nagbench needs it, what it is for
LIBRARIES = (
    ("torch", "torch", "torch", True, "all computing"),
    ("scipy", "scipy", "scipy", True, "intervals"),
    ("scikit-learn", "sklearn", "scikit-learn", True, "the digits data"),
    ("matplotlib", "matplotlib", "matplotlib", True, "figures"),
    ("MLflow", "mlflow", "mlflow", True, "tracking"),
    ("submitit", "submitit", "submitit", False, "runs on Slurm"),
    ("Ray", "ray", "'nagbench[ray]'", False, "runs on Ray"),
)


def doctor(store: str, tracking: str, needed: Iterable[str] = ()) -> list[DoctorRow]:
    """Check this machine. This changes nothing: the one file that it writes into the store is removed again.

    needed: names of pretrained weights that a sweep needs.
    """
    with ThreadPoolExecutor(max_workers=3) as pool:  # each import is a process
        libraries = [pool.submit(_library, *library) for library in LIBRARIES]
        rows = [_python(), _machine(), _workers(), *_store(store), _tracking(tracking), *_slurm(), *weights(needed)]
    return [rows[0], *(library.result() for library in libraries), *rows[1:]]


def _python() -> DoctorRow:
    return DoctorRow("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _library(name: str, module: str, package: str, needed: bool, use: str) -> DoctorRow:
    fix = f"pip install {package}"
    code = TORCH if module == "torch" else LIBRARY.format(module)
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_S,
            env=env,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return DoctorRow(
            name, "missing", f"importing it takes over {IMPORT_S:.0f} s", "Look at the disk it is on.", needed
        )
    with contextlib.suppress(IndexError, ValueError):
        version, more = json.loads(done.stdout.splitlines()[-1])
        return DoctorRow(name, "ok", ", ".join(filter(None, [version, more])), needed=needed)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    problem = lines[-1].strip() if lines else f"exit code {done.returncode}"
    if f"No module named '{module}'" in problem:
        return DoctorRow(name, "missing", f"not installed; for {use}", fix, needed)
    return DoctorRow(name, "missing", f"broken: {problem[:200]}", f"pip install --force-reinstall {package}", needed)


def _machine() -> DoctorRow:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gb()
    detail = f"{cores} {'core' if cores == 1 else 'cores'}" + (f", {memory:.0f} GB memory" if memory else "")
    if memory and memory < 1.5 * default_workers("auto"):
        fix = f"nagbench run ... --workers {max(1, int(memory / 1.5))}"
        return DoctorRow("machine", "warning", f"{detail}: a worker takes over 1 GB", fix)
    return DoctorRow("machine", "ok", detail)


def _workers() -> DoctorRow:
    """How many workers a run has by default, and which GPU each gets."""
    found = cards("auto")
    each = mapping(found) if found else "one a core"
    return DoctorRow("workers", "ok", f"{default_workers('auto')} by default: {each}")


def _memory_gb() -> float | None:
    """The memory of the machine, or the limit of its container."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits) / 1e9 if limits else None


def _store(url: str) -> list[DoctorRow]:
    """Whether the store is one of nagbench, can be written, and has room."""
    fix = "Name another one: --store FOLDER, or NAGBENCH_STORE."
    try:
        store = Store(url)
        store.check_format()
        if not store.local:
            store.check_exclusive(f"doctor/{uuid.uuid4().hex}")
            return [DoctorRow("store", "ok", f"{url}: can be written, never two writers over each other")]
    except NagbenchError as error:
        return [DoctorRow("store", "missing", str(error), fix)]
    except Exception as error:  # noqa: BLE001  (a remote file system may raise anything)
        return [DoctorRow("store", "missing", f"{url}: {type(error).__name__}: {error}", fix)]
    folder = Path(store.root)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    trial = there / f".nagbench-{uuid.uuid4().hex}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        return [DoctorRow("store", "missing", f"{url}: {there} cannot be written: {error.strerror}", fix)]
    rows = [DoctorRow("store", "ok", f"{url}: can be written" + ("" if there == folder else "; a run will make it"))]
    free = shutil.disk_usage(there).free / 1e9
    if free < LEAST_GB:
        return [*rows, DoctorRow("disk", "warning", f"{free:.1f} GB free where the store is", f"Make room, or: {fix}")]
    return [*rows, DoctorRow("disk", "ok", f"{free:.0f} GB free where the store is")]


def _tracking(uri: str) -> DoctorRow:
    if uri == NONE:
        return DoctorRow("tracking", "ok", "none requested", needed=False)
    try:
        written_state(uri, "")
    except NagbenchError as error:  # the sweep runs without
        return DoctorRow("tracking", "warning", str(error), needed=False)
    return DoctorRow("tracking", "ok", address(uri), needed=False)


def _slurm() -> list[DoctorRow]:
    """Whether Slurm's commands are installed, and its controller answers."""
    absent = [name for name in ("sinfo", "sbatch", "sacct") if shutil.which(name) is None]
    if len(absent) == 3:
        return [
            DoctorRow("Slurm", "missing", "no sinfo, sbatch or sacct", "Only a login node of a cluster has it.", False)
        ]
    rows = []
    if {"sinfo", "sbatch"} & set(absent):
        return [DoctorRow("Slurm", "missing", f"no {', no '.join(absent)}", "Ask the site, or load its module.", False)]
    lines = _ask("sinfo", "-h", "-o", "%P %D %t")
    if isinstance(lines, str):
        rows.append(DoctorRow("Slurm", "warning", f"sinfo: {lines}", "Is slurmctld up? Is SLURM_CONF right?", False))
    else:
        parts = sorted({line.split()[0].rstrip("*") for line in lines if line.split()})
        rows.append(DoctorRow("Slurm", "ok", f"partitions {', '.join(parts) or 'none'}", needed=False))
    lines = "not installed" if "sacct" in absent else _ask("sacct", "-n", "-X", "-S", "now")
    if isinstance(lines, str):
        fix = "Runs work without it; how a lost job ended is then read from squeue and its log."
        rows.append(DoctorRow("Slurm accounting", "warning", f"sacct: {lines}", fix, False))
    return rows


def _ask(*command: str) -> list[str] | str:
    """The lines that a program prints, or why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"no answer within {ASK_S:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout.splitlines()
