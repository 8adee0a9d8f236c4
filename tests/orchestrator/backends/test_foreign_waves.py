"""Records of waves and attempts that others wrote: no part of them becomes an option of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.slurm import queueing
from orchestrator.backends.slurm.waves import Wave, create_wave, read_array, read_job_id, waves
from orchestrator.errors import CorruptFile
from orchestrator.execution.retries import decide
from orchestrator.identity import canonical, checksum
from orchestrator.store.store import Store
from orchestrator.tasks import attempts

HEX = "a" * 32


def sealed(record: dict[str, object]) -> bytes:
    return (canonical({**record, "checksum": checksum(canonical(record).encode())}) + "\n").encode()


def test_nothing_of_a_record_becomes_a_line_of_a_job(tmp_path: Path) -> None:
    """Hosts to avoid and ids to wait for are options of sbatch, and options are lines of a shell script."""
    evil = "node1\ntouch /tmp/evil"
    store = Store(str(tmp_path))
    store.open()
    tried = {"cause": "node", "reason": "it died", "time": 1.0, "kind": "sample", "at": 0}
    for number, host in enumerate((evil, "node2", "$(x)", "a b", "n[1-4,7]")):
        attempts.keep(store, HEX, str(number), {**tried, "host": host})
    assert decide(attempts.read(store, HEX)).avoid == ("node2", "n[1-4,7]")
    wave = create_wave(store, "tiny", {"arrays": 2, "time": 1.0, "folder": str(tmp_path), "stem": "x"})
    for job in (evil, "--user=me", "7,8"):
        path = tmp_path / wave.job_name(0)
        path.unlink(missing_ok=True)
        path.write_bytes(sealed({"job": job}))
        assert read_job_id(store, wave, 0) == (False, None)
    with pytest.raises(queueing.Refused, match="which cannot be an option of a job"):
        queueing.check_options({"name": "x", "slurm_additional_parameters": {"dependency": f"afterany:{evil}"}})


def test_waves_that_are_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open()
    good = create_wave(store, "tiny", {"arrays": 10**15, "time": 1.0, "folder": str(tmp_path), "stem": "x"})
    for number, record in enumerate(({}, {"arrays": "2", "time": 1.0, "folder": "x"}, {"arrays": 1}), 2):
        store.create_record(Wave("tiny", number).folder + "/wave.json", record)
    assert [wave.number for wave in waves(store, "tiny", closed=True)] == [good.number]
    for shape in ({}, {"digests": [], "elements": [[[1, 2, 3]]], "name": "x"}, {"elements": 3}):
        path = tmp_path / good.array_name(0)
        path.write_bytes(sealed(shape))
        with pytest.raises(CorruptFile, match="is not an array"):
            read_array(store, good.array_name(0))
