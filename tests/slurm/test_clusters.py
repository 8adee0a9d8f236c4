"""Other clusters than the login node's own (`clusters`), and what users set for Slurm's commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends.slurm.commands import FORMATS, Commands, clean_environment, scrubbed
from orchestrator.backends.slurm.jobs import jobs_of
from orchestrator.backends.slurm.slurm_output import QUEUE
from orchestrator.backends.slurm.waves import waves
from tests.slurm.cluster import Cluster
from tests.slurm.running import Place, wrapper

USERS = {
    "SQUEUE_FORMAT": "%j",
    "SQUEUE_SORT": "-i",
    "SQUEUE_STATES": "RUNNING",
    "SACCT_FORMAT": "JobName",
    "SINFO_FORMAT": "%N",
    "SLURM_TIME_FORMAT": "relative",
    "SCANCEL_INTERACTIVE": "1",
}
NAMED = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path / "me", slurm)
    slurm.run("scancel", "--user=root")


def submit_look_and_cancel(place: Place, path: dict[str, str]) -> None:
    done = place("submit", env=path)
    assert done.exit_code == 0, done.output
    recorded = {job.id for wave in waves(place.store, place.name) for job in jobs_of(place.store, wave)}
    assert recorded == {job.partition("_")[0] for job in place.queue()}
    assert len(recorded) == 5
    again = place("submit", env=path)
    assert again.exit_code == 0, again.output
    assert set(place.steps_queued().values()) == {1}
    told = json.loads(place("status", "--json", env=path).output)
    assert sum(count for states in told["queue"].values() for count in states.values()) == len(place.queue())
    assert told["queue_unknown"] is None
    gone = place("cancel", env=path)
    assert gone.exit_code == 0, gone.output
    assert place.queue() == {}


def test_a_cluster_by_its_name_and_a_user_with_formats_of_their_own(place: Place, tmp_path: Path) -> None:
    name = re.search(r"ClusterName\s+= (\S+)", place.cluster.out("scontrol", "show", "config"))
    assert name is not None
    calls = tmp_path / "calls"
    scripts = {each: f'echo "{each} $*" >> {calls}; exec {each} "$@"' for each in NAMED}
    place.closed(more=f"clusters: {name[1]}\n")
    submit_look_and_cancel(place, wrapper(tmp_path / "bin", **scripts) | USERS)
    lines = calls.read_text().splitlines()
    asked = [line for line in lines if not line.startswith("sbatch")]
    assert {line.split()[0] for line in asked} >= {"squeue", "scancel", "scontrol"}
    assert not [line for line in asked if f"--clusters={name[1]}" not in line]
    (script, *_) = place.folder.rglob("*submission.sh")
    assert f"#SBATCH --clusters={name[1]}" in script.read_text()


def test_two_clusters(place: Place, tmp_path: Path) -> None:
    """A wrapper stands for the second cluster of a federation: it has no job, and scontrol takes one name at a time."""
    each = '[ "$1" = --clusters=a,b ] || exit 9\nshift\necho "CLUSTER: a"\n{0} "$@"; code=$?\necho; echo "CLUSTER: b"\n'
    both = {name: each.format(name) + "exit $code" for name in ("squeue", "sacct", "sinfo", "scancel")}
    scontrol = """\
case "$1 $*" in
--clusters=a\\ *) shift; exec scontrol "$@";;
--clusters=b*show\\ job*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;
--clusters=b\\ *) exit 0;;
*) exit 9;;
esac"""
    sbatch = """\
for script; do :; done
grep -q -- --clusters=a,b "$script" || exit 9
sed -i /--clusters/d "$script"
echo "$(sbatch "$@");a\""""
    place.closed(more="clusters: a,b\n")
    submit_look_and_cancel(place, wrapper(tmp_path / "bin", scontrol=scontrol, sbatch=sbatch, **both))


def test_a_job_that_one_cluster_knows_is_known(tmp_path: Path) -> None:
    line = "JobId=7 JobName=x JobState=RUNNING Reason=None"
    knows = f'case "$1" in *=b) echo "{line}";; *) echo "error: Invalid job id specified" >&2; exit 1;; esac'
    environment = os.environ | wrapper(tmp_path / "bin", scontrol=knows)
    assert Commands(environment, clusters="a,b").known("7") == {"7": "RUNNING"}
    assert Commands(environment, clusters="a").known("7") == {}
    away = f'case "$1" in *=b) echo "{line}";; *) echo "error: Unable to contact slurm controller" >&2; exit 1;; esac'
    environment = os.environ | wrapper(tmp_path / "bin", scontrol=away)
    assert Commands(environment, clusters="a,b").known("7") is None


def test_a_job_that_another_cluster_took_has_not_ended(tmp_path: Path) -> None:
    """It is REVOKED on the cluster that did not get it; one that waits is shown on both, also where it cannot start."""

    def row(job: str, state: str, reason: str = "None") -> str:
        values = (job, state, "0", "0", "1", "2", "3", "n1", reason, "mine", "")
        return "".join(f"{value:<{size}}|" for value, size in zip(values, QUEUE.values(), strict=True))

    down, fine = (("PENDING", reason) for reason in ("PartitionDown", "Priority"))
    here = [row("7", "RUNNING"), row("8", *down), row("9", "PENDING"), row("10", *fine)]
    there = [row("7", "REVOKED"), row("8", *fine), row("9", "RUNNING"), row("10", *down)]
    (tmp_path / "rows").write_text("\n".join([*here, *there, ""]))
    show = 'case "$1" in *=a) echo "JobId=7 JobName=x JobState=RUNNING";; *) echo "JobId=7 JobState=REVOKED";; esac'
    told = "JobID|State|ExitCode|DerivedExitCode|Submit|Start|End|ElapsedRaw|NodeList|MaxRSS\n7|{}|0:0|0:0|1|2|3|9|n1|"
    (tmp_path / "told").write_text("\n".join([told.format("COMPLETED"), told.format("REVOKED"), ""]))
    path = wrapper(tmp_path / "bin", squeue=f"cat {tmp_path}/rows", scontrol=show, sacct=f"cat {tmp_path}/told")
    commands = Commands(os.environ | path, clusters="a,b")
    shown = [("7", "RUNNING", "None"), ("8", "PENDING", "Priority"), ("9", "RUNNING", "None")]
    found = [(each.id, each.state, each.reason) for each in commands.queue()]
    assert found == [*shown, ("10", "PENDING", "Priority")]
    assert commands.known("7") == {"7": "RUNNING"}
    assert [run.state for run in commands.accounts(["7"], 1.0)] == ["COMPLETED"]


def test_a_job_gets_the_users_formats_but_nothing_of_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*FORMATS, "SLURM_JOB_ID", "SQUEUE_STATES"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/own.conf")
    with scrubbed():
        assert {name for name in os.environ if name.startswith(("SLURM", "SQUEUE", "SACCT", "SINFO"))} == {
            *FORMATS,
            "SLURM_CONF",
        }
    assert clean_environment(dict(os.environ)).keys().isdisjoint({*FORMATS, "SLURM_JOB_ID"})
    assert os.environ["SQUEUE_STATES"] == "x"
