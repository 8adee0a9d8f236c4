"""`doctor` shows what is here, how to fix what is broken or missing, and never fails itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.backends import local_doctor as module
from orchestrator.backends.doctor_rows import DoctorRow
from orchestrator.commands.doctor import exit_code, table
from orchestrator.tracking import address
from tests.orchestrator.conftest import nagbench


def row(rows: list[DoctorRow], name: str) -> DoctorRow:
    return next(row for row in rows if row.name == name)


def text(rows: list[DoctorRow], width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(table(rows))
    return out.getvalue()


def test_this_machine(tmp_path: Path) -> None:
    """Everything, with real imports: the test environment has all that is needed."""
    places = ("--store", tmp_path / "store", "--tracking", f"sqlite:///{tmp_path}/mlflow.db")
    done = nagbench("doctor", *places, "--json", env=os.environ | {"PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = [DoctorRow(**each) for each in document["rows"]]
    for name in ("Python", "torch", "scipy", "scikit-learn", "MLflow", "store", "machine", "tracking"):
        assert row(rows, name).state in ("ok", "warning"), row(rows, name)
    assert "cpu only" in row(rows, "torch").detail or "cuda" in row(rows, "torch").detail
    assert (row(rows, "Slurm").state, row(rows, "Slurm").needed) == ("missing", False)
    assert exit_code(rows) == 0
    assert os.listdir(tmp_path) == []  # it looked, and made nothing
    assert all(row.fix for row in rows if row.state != "ok")
    shown = text(rows)
    assert all(row.name in shown for row in rows)
    assert max(map(len, shown.splitlines())) <= 80
    assert document["ok"] is True
    assert document["rows"][0].keys() == {"name", "state", "detail", "fix", "needed"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a one-file package before all installed ones."""

    def put(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return put


def library(name: str) -> DoctorRow:
    return module._library(*next(entry for entry in module.LIBRARIES if entry[1] == name))


def test_a_broken_installation_is_a_line(package: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    package("torch", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    found = library("torch")
    assert (found.state, found.detail) == (
        "missing",
        "broken: ImportError: libcudart.so.12: cannot open shared object file",
    )
    assert found.fix == "pip install --force-reinstall torch"
    assert exit_code([found]) == 3
    package("torch", "import os; os.abort()")
    assert library("torch").detail == "broken: exit code -6"
    monkeypatch.setattr(module, "IMPORT_S", 0.5)
    package("torch", "import time; time.sleep(60)")
    assert "takes over" in library("torch").detail


def test_what_is_not_installed(package: Callable[[str, str], None]) -> None:
    package("ray", "raise ModuleNotFoundError(\"No module named 'ray'\")")
    found = library("ray")
    assert (found.state, found.detail, found.needed) == ("missing", "not installed; for runs on Ray", False)
    assert exit_code([found]) == 0
    assert "not here" in text([found])


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make PATH a folder with only this program."""

    def put(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\n{body}")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


def test_a_slurm_that_answers(program: Callable[[str, str], None]) -> None:
    program("sinfo", "print('gpu* 4 idle'); print('cpu 2 mixed')")
    for name in ("sbatch", "sacct"):
        program(name, "")
    assert [(found.name, found.state, found.detail) for found in module._slurm()] == [
        ("Slurm", "ok", "partitions cpu, gpu")
    ]


def test_a_slurm_that_does_not(program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    program("sinfo", "import sys; sys.exit('slurm_load_partitions: Unable to contact slurm controller')")
    assert module._slurm()[0].detail == "no sbatch, no sacct"
    program("sbatch", "")
    slurm, accounting = module._slurm()
    assert (slurm.state, slurm.detail) == (
        "warning",
        "sinfo: slurm_load_partitions: Unable to contact slurm controller",
    )
    assert (accounting.state, accounting.detail) == ("warning", "sacct: not installed")
    monkeypatch.setattr(module, "ASK_S", 0.3)
    program("sinfo", "import time; time.sleep(60)")
    assert "no answer within" in module._slurm()[0].detail


def test_a_store_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "nagbench.json").write_text('{"format": 99}')
    found = module._store(str(tmp_path))[0]
    assert (found.state, exit_code([found])) == ("missing", 3)
    assert "has format 99" in found.detail
    assert module._store("nosuch://bucket/x")[0].state == "missing"
    (tmp_path / "file").write_text("")
    assert module._store(str(tmp_path / "file"))[0].state == "missing"


def test_a_remote_store_is_tried() -> None:
    from orchestrator.store.store import Store

    assert module._store("memory://doctor-test")[0].state == "ok"
    assert Store("memory://doctor-test").list("doctor") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_store_that_cannot_be_written() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        os.seteuid(65534)
        try:
            found = module._store(f"{folder}/store")[0]
        finally:
            os.seteuid(0)
    assert (found.state, found.detail) == ("missing", f"{folder}/store: {folder} cannot be written: Permission denied")


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    found = row(module._store(str(tmp_path)), "disk")
    assert (found.state, found.detail) == ("warning", "1.0 GB free where the store is")


def test_a_tracking_server_that_is_away_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "ANSWER_S", 2.0)
    found = module._tracking("http://127.0.0.1:9")
    assert found.state == "warning"
    assert "nothing listens there" in found.detail
    assert exit_code([found]) == 0
    assert module._tracking("none").state == "ok"
