"""Slurm's commands, called on a real cluster, and their answers read: some recorded, some as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.backends.slurm.commands import Commands, QueryFailed, Unsupported, clean_environment, scrubbed
from orchestrator.backends.slurm.slurm_output import (
    Association,
    Nodes,
    SqueueRow,
    expand_ids,
    gpus_of,
    minutes_of,
    parse_accounts,
    parse_associations,
    parse_nodes,
    parse_partitions,
    parse_queue,
)
from tests.slurm.cluster import ACCOUNT, QOS, Cluster, wait
from tests.slurm.configuration import Settings

# What Slurm 22.05 printed. In the first column, 1_[5-7%2] is written as squeue does without --array.
QUEUE = """\
1_10    |CANCELLED |0|15   |1795403755|1795403755|1795403761|n1    |None               |probe|(null)|
1_8     |COMPLETING|1|0    |1795403758|N/A       |N/A       |n1    |None               |probe|(null)|
1_2     |FAILED    |0|35072|1795403755|1795403755|1795403758|n1    |NonZeroExitCode    |probe|(null)|
2       |RUNNING   |0|0    |1795403755|1795403755|1795403815|n[1-2]|None               |odd | name|(null)|
1_[5-7%2]|PENDING  |0|0    |1795403755|N/A       |N/A       |      |JobArrayTaskLimit  |probe|(null)|
9       |PENDING   |1|256  |1795403755|N/A       |N/A       |      |launch failed requeued held|two
lines|(null)|
"""

ACCOUNTS = """\
JobID|State|ExitCode|DerivedExitCode|Submit|Start|End|ElapsedRaw|NodeList|MaxRSS
1_0|PREEMPTED|0:0|0:0|1795403384|1795403384|1795403411|27|n1|
1_0.batch|CANCELLED|0:15||1795403384|1795403384|1795403411|27|n1|12336K
1_0.0|CANCELLED|0:9||1795403384|1795403384|1795403416|32|n1|2.50G
1_0|RUNNING|0:0|0:0|1795403416|1795403430|Unknown|16|n1|
1_2|FAILED|9:0|0:9|1795403384|1795403384|1795403385|1|n2|
17_[1-3]|CANCELLED by 1000|0:0|0:0|1795403384|None|1795403385|0|None assigned|
"""


NODES = "PARTITION|NODES|STATE|CPUS|MEMORY|GRES|AVAIL_FEATURES"
ASSOCIATIONS = "Account|Partition|QOS|MaxSubmit|MaxJobs|MaxWall"


@pytest.mark.parametrize(
    ("job", "ids"),
    [
        ("123", ["123"]),
        ("123_4", ["123_4"]),
        ("123_[1%1]", ["123_1"]),
        ("123_[3,5-7%4]", ["123_3", "123_5", "123_6", "123_7"]),
        ("123_[0-6:3]", ["123_0", "123_3", "123_6"]),
        ("123_[1-2,...]", ["123_1", "123_2"]),
        ("123+1", ["123+1"]),
    ],
)
def test_ids_stand_for_array_tasks(job: str, ids: list[str]) -> None:
    assert expand_ids(job) == ids


@pytest.mark.parametrize("job", ["", "x", "1_", "1_[a]", "1_[0-99999999]", "1_[0x1f]", "1 2"])
def test_what_is_no_id_is_an_error(job: str) -> None:
    with pytest.raises(ValueError, match=r"not a valid job id|too many array tasks"):
        expand_ids(job)


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        *(("UNLIMITED", None), ("infinite", None), ("", None), ("5", 5)),
        *(("1-00:00:00", 1440), ("2-12", 3600), ("30:00", 30), ("1:30:30", 90.5)),
    ],
)
def test_time_limits(words: str, minutes: float | None) -> None:
    assert minutes_of(words) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:2", {"": 2}),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0),shard:8", {"a100": 4, "v100": 2}),
        ("gpu", {"": 1}),
        ("(null)", {}),
    ],
)
def test_gpus_of_nodes(gres: str, gpus: dict[str, int]) -> None:
    assert gpus_of(gres) == gpus


def test_squeue_is_read() -> None:
    jobs = {job.id: job for job in parse_queue(QUEUE)}
    assert set(jobs) == {"1_10", "1_8", "1_2", "2", "1_5", "1_6", "1_7", "9"}
    assert [job for job in jobs if jobs[job].over] == ["1_10", "1_2"]
    assert (jobs["1_10"].exit_code, jobs["1_10"].signal) == (0, 15)
    assert (jobs["1_2"].exit_code, jobs["1_2"].signal) == (137, 9)
    assert jobs["1_8"] == SqueueRow("1_8", "COMPLETING", 1, 0, 0, 1795403758.0, None, None, "n1", "None", "probe")
    assert jobs["2"].name == "odd | name"
    assert jobs["1_6"].reason == "JobArrayTaskLimit"
    assert [job for job in jobs if jobs[job].stuck] == ["9"]
    for reason in ("QOSMaxWallDurationPerJobLimit", "AssocMaxGRESPerJob", "QOSMaxCpuPerNode"):
        assert replace(jobs["9"], reason=reason).stuck
    for passing in ("QOSMaxJobsPerUserLimit", "AssocGrpCpuLimit", "QOSMaxCpuPerUserLimit", "Priority"):
        assert not replace(jobs["9"], reason=passing).stuck


def test_sacct_is_read() -> None:
    runs = parse_accounts(ACCOUNTS)
    assert [(run.id, run.step, run.state) for run in runs[:5]] == [
        ("1_0", "", "PREEMPTED"),
        ("1_0", "batch", "CANCELLED"),
        ("1_0", "0", "CANCELLED"),
        ("1_0", "", "RUNNING"),
        ("1_2", "", "FAILED"),
    ]
    assert runs[2].memory_gb == 2.5
    assert runs[3].end is None
    assert (runs[4].exit_code, runs[4].signal) == (9, 9)
    assert [(run.id, run.over, run.nodes) for run in runs[5:]] == [(f"17_{n}", True, "") for n in (1, 2, 3)]


def test_a_line_of_something_else_is_no_answer(slurm: Cluster) -> None:
    with pytest.raises(ValueError, match="no header 'JobID'"):
        parse_accounts("1_0|FAILED\n")
    commands = Commands(slurm.saying("sacct", "surprise"))
    with pytest.raises(QueryFailed, match=r"the output of sacct cannot be parsed: .*surprise"):
        commands.accounts(["1"], hours=1)


def test_partitions_nodes_and_accounts_are_read() -> None:
    line = "PartitionName=a100 AllowGroups=ALL AllowAccounts=lab,x AllowQos=ALL Default=NO GraceTime=20 "
    line += "MaxTime=2-00:00:00 PreemptMode=REQUEUE State=DOWN TotalNodes=7 TRES=cpu=8,mem=125G,node=2\n"
    (found,) = parse_partitions(line)
    assert (found.name, found.up, found.max_minutes, found.nodes) == ("a100", False, 2880, 7)
    assert (found.accounts, found.qos, found.grace_s) == (("lab", "x"), None, 20)
    nodes = parse_nodes(
        "PARTITION|NODES|STATE|CPUS|MEMORY|GRES|AVAIL_FEATURES\na100|7|mixed*|64+|512000+|gpu:a100:8(S:0-1)|nvlink,a100\ncpu|2|idle|4|64000|(null)|(null)\n"
    )
    assert nodes[0] == Nodes("a100", 7, "mixed", 64, 500.0, {"a100": 8}, ("nvlink", "a100"))
    assert nodes[1] == Nodes("cpu", 2, "idle", 4, 62.5, {}, ())
    assert parse_associations(
        "Account|Partition|QOS|MaxSubmit|MaxJobs|MaxWall\nlab|gpu|fast,normal|100||1-00:00:00\nroot||||8|\n"
    ) == [
        Association("lab", "gpu", ("fast", "normal"), 100, None, 1440),
        Association("root", "", (), None, 8, None),
    ]


# On the cluster.


def states(commands: Commands) -> dict[str, str]:
    return {job.id: job.state for job in commands.queue()}


def test_the_queue_shows_array_tasks_one_by_one_and_how_they_ended(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    script = "case $SLURM_ARRAY_TASK_ID in 0) exit 3;; 1) kill -9 $$;; 2) exit 0;; *) sleep 60;; esac"
    array = slurm.submit(script, "--array=0-5%4", "--job-name=nb.me.tiny", "--partition=gpu")
    before = time.time()
    rows = {job.id: job for job in commands.queue() if job.id.startswith(f"{array}_")}
    assert set(rows) == {f"{array}_{n}" for n in range(6)}  # at once, whatever they do
    wait(lambda: states(commands).get(f"{array}_1") == "FAILED", "array task 1 has died")
    wait(lambda: states(commands).get(f"{array}_5") == "RUNNING", "array task 5 runs")
    rows = {job.id: job for job in commands.queue()}
    assert rows[f"{array}_0"].exit_code == 3
    assert rows[f"{array}_1"].signal == 9
    assert rows[f"{array}_2"].state == "COMPLETED"
    assert [rows[f"{array}_{n}"].over for n in range(6)] == [True] * 3 + [False] * 3
    running = rows[f"{array}_3"]
    assert (running.state, running.name, running.restarts) == ("RUNNING", "nb.me.tiny", 0)
    assert running.nodes in slurm.nodes
    assert abs((running.start or 0) - before) < 30  # seconds since 1970, whatever the time zone
    wait(lambda: len([r for r in commands.accounts([array], 1) if r.over]) == 3, "sacct knows the three")
    runs = {run.id: run for run in commands.accounts([array], 1)}
    assert (runs[f"{array}_0"].state, runs[f"{array}_0"].exit_code) == ("FAILED", 3)
    assert runs[f"{array}_1"].signal == 9
    assert runs[f"{array}_3"].state == "RUNNING"
    steps = {run.step for run in commands.accounts([f"{array}_0"], 1, steps=True)}
    assert steps == {"", "batch"}
    commands.cancel([f"{array}_{n}" for n in (3, 4, 5)])
    wait(lambda: not slurm.jobs(), "they are gone")
    assert states(commands)[f"{array}_3"] == "CANCELLED"


def test_a_requeued_array_task_comes_back_under_its_id(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    array = slurm.submit("trap '' TERM; [ -n \"$SLURM_RESTART_COUNT\" ] || sleep 60", "--array=0-1")
    wait(lambda: states(commands).get(f"{array}_1") == "RUNNING", "it runs")
    commands.requeue([f"{array}_1"])
    commands.requeue([f"{array}_1"])  # it waits already: no error
    row = next(job for job in commands.queue() if job.id == f"{array}_1")
    assert not row.over
    assert row.restarts == 1
    assert states(commands)[f"{array}_0"] == "RUNNING"  # the other one is left alone
    wait(lambda: states(commands).get(f"{array}_1") == "COMPLETED", "it ran again")
    runs = [run.state for run in commands.accounts([f"{array}_1"], 1)]
    assert runs[0] == "REQUEUED"
    with pytest.raises(QueryFailed, match=r"scontrol failed: .*Invalid job id"):
        commands.requeue(["999999"])


def test_cancelling_what_is_not_there_is_no_error(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    array = slurm.submit("sleep 60", "--array=0-3%1")
    ids = [f"{array}_{n}" for n in range(4)]
    commands.cancel([*ids, "999998", "999999_3"])
    wait(lambda: not slurm.jobs(), "they are gone")
    commands.cancel(ids)
    assert commands.calls == {"scancel": 2}
    commands.cancel([])
    assert commands.calls == {"scancel": 2}


def test_sacct_knows_nothing_of_what_is_not_there(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    assert commands.accounts(["999999", "999998_3"], hours=24) == []
    assert commands.accounts([], hours=24) == []
    assert commands.calls == {"sacct": 1}


def test_what_the_cluster_is(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    assert commands.max_array() == 21
    assert commands.config()["SLURM_VERSION"].startswith("2")
    partitions = commands.partitions()
    assert {"cpu", "gpu"} <= set(partitions)  # other tests may have added closed ones
    assert partitions["cpu"].default
    assert partitions["gpu"].max_minutes == 1440
    assert partitions["cpu"].max_minutes is None
    nodes = [node for node in commands.nodes() if node.partition == "gpu"]
    assert sum(node.count for node in nodes) == 2
    assert {(node.cpus, node.gpus[""], node.memory_gb) for node in nodes} == {(4, 2, 62.5)}
    accounts = {found.account: found for found in commands.associations()}
    assert set(accounts[ACCOUNT].qos) == set(QOS)
    assert commands.calls == {"scontrol": 2, "sinfo": 1, "sacctmgr": 1}  # the configuration is asked for once


def test_limits_of_an_account(slurm: Cluster) -> None:
    def limit(jobs: int) -> None:
        slurm.out("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={jobs}")

    limit(5)
    try:
        found = {account.account: account for account in Commands(slurm.env).associations()}
        assert found[ACCOUNT].max_submit == 5
        with pytest.raises(RuntimeError, match="MaxSubmitJobLimit"):
            slurm.submit("sleep 60", "--array=0-5")
    finally:
        limit(-1)


def test_no_sacct(slurm: Cluster) -> None:
    commands = Commands(slurm.without("sacct"))
    with pytest.raises(Unsupported, match="sacct: there is no such command"):
        commands.accounts(["1"], hours=1)
    commands.queue()  # the rest is there


def test_a_cluster_without_accounts(slurm_with: Callable[[Settings], Cluster]) -> None:
    made = slurm_with(Settings(accounting=False))
    commands = Commands(made.env)
    job = made.submit("exit 4")
    with pytest.raises(Unsupported, match="keeps no accounts"):
        commands.accounts([job], hours=1)
    with pytest.raises(Unsupported, match="keeps no accounts"):
        commands.associations()
    wait(lambda: not made.jobs(), "it is over")
    (row,) = commands.queue()  # and yet it is known how it ended
    assert (row.id, row.state, row.exit_code) == (job, "FAILED", 4)


def test_slurmdbd_that_is_away_is_no_answer(slurm: Cluster) -> None:
    commands = Commands(slurm.env)
    slurm.stop_slurmdbd()
    try:
        with pytest.raises(QueryFailed, match=r"sacct failed: .*Connection refused") as raised:
            commands.accounts(["1"], hours=1)
        assert not isinstance(raised.value, Unsupported)
        commands.queue()
    finally:
        slurm.start_slurmdbd()
    wait(lambda: commands.accounts(["999999"], hours=1) == [], "sacct answers again")


def test_a_slurmctld_that_is_away_is_no_empty_queue(slurm: Cluster) -> None:
    commands = Commands(slurm.env, timeout_s=1.5)
    slurm.stop_slurmctld()
    try:
        with pytest.raises(QueryFailed, match=r"squeue did not answer in 1\.5 s"):
            commands.queue()
    finally:
        slurm.start_slurmctld()
    with pytest.raises(QueryFailed, match="squeue failed"):
        Commands(slurm.env | {"SLURM_CONF": "/dev/null"}).queue()


def test_an_error_with_exit_code_0_is_an_error(slurm: Cluster) -> None:
    """squeue returns 0, and no job, for a field that it does not know."""
    with pytest.raises(QueryFailed, match=r"squeue failed: .*Invalid job format"):
        Commands(slurm.env).ask("squeue", "--noheader", "--Format", "nosuch")


def test_answers_do_not_depend_on_the_users_settings(slurm: Cluster) -> None:
    array = slurm.submit("sleep 60", "--array=0-1")
    theirs = {"SQUEUE_FORMAT": "%j", "SLURM_TIME_FORMAT": "%A", "SQUEUE_STATES": "R", "SACCT_FORMAT": "user"}
    commands = Commands(slurm.env | theirs | {"SLURM_JOB_ID": "7", "SQUEUE_PARTITION": "gpu"})
    mine = [job for job in commands.queue() if job.id.startswith(array)]
    assert [job.id for job in sorted(mine, key=lambda job: job.id)] == [f"{array}_0", f"{array}_1"]
    assert mine[0].submitted is not None


def test_a_job_takes_nothing_from_the_job_that_submits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_CPU_BIND": "none", "SBATCH_ACCOUNT": "x", "SRUN_CPUS_PER_TASK": "3"}
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    with scrubbed():
        assert os.environ["SLURM_CONF"] == "/etc/there"
        assert not inside.keys() & os.environ.keys()
    assert inside.items() <= dict(os.environ).items()
    assert clean_environment({"PATH": "p", "SLURMD_NODENAME": "n", "SLURM_CONF": "c"}) == {
        "PATH": "p",
        "SLURM_CONF": "c",
    }
