"""Slurm as sites really are: banners, limits, answers that come late or leave out jobs, reasons for which jobs wait."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.backends.slurm.arrays import Array, ArrayTask
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import ArrayJobs, jobs_of
from orchestrator.backends.slurm.log_causes import telling_line
from orchestrator.backends.slurm.presence import beating, doubled
from orchestrator.backends.slurm.process import STARTED
from orchestrator.backends.slurm.queueing import CANARIES, canary
from orchestrator.backends.slurm.reasons import ADVICE, advice
from orchestrator.backends.slurm.settings import Resources
from orchestrator.backends.slurm.slurm_output import parse_accounts, parse_jobs, parse_queue
from orchestrator.backends.slurm.waves import Wave, create_wave, waves, write_array
from orchestrator.execution.protocol import Bundle
from orchestrator.store.store import Store
from tests.slurm.cluster import Cluster, wait
from tests.slurm.disturbances import limit, limit_of_qos
from tests.slurm.running import ROOT, SMALL, Place, changed, wrapper

# 60 blocks, each of which is guessed to take longer than an array task should
MANY_BLOCKS = changed(SMALL, "{count: 40, block: 20}", "{count: 60, block: 1}", "  nag: {nag: {scale: 1.0}}\n", "")
SHORT = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 0.1")
BANNER = """\
*** Welcome, job 5 of your group is done ***
2026
| a | b | c | d | e | f | g | h | i | j | k |
"""


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path / "me", slurm)
    slurm.run("scancel", "--user=root")


# Answers that leave out jobs.


def a_wave(folder: Path, lost_after: float) -> tuple[Store, Wave]:
    """A wave of one array of two array tasks, job 7."""
    store = Store(str(folder / "store"))
    store.open()
    record = {"arrays": 1, "time": time.time(), "folder": str(folder), "stem": "x", "lost_after_s": lost_after}
    wave = create_wave(store, "small", record)
    task = ArrayTask((Bundle((("a" * 32, (0,)),), "plan", "sample"),))
    write_array(store, wave, 0, Array("x.0", "sample", "", Resources(1, 1, 1, 0), (), (), (task, task), 1))
    store.create_record(wave.job_name(0), {"job": "7"})
    return store, wave


HEADER = "JobID|State|ExitCode|DerivedExitCode|Submit|Start|End|ElapsedRaw|NodeList|MaxRSS"
FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'


def ask(store: Store, path: dict[str, str]) -> list[tuple[int, str]]:
    """What a new engine believes to have ended."""
    jobs = ArrayJobs(store, "small", Commands(dict(os.environ) | path))
    jobs.read()
    return [(each.index, each.cause) for each in jobs.ended()]


@pytest.mark.parametrize("knows", ["RUNNING", "PENDING", "SUSPENDED"])
def test_what_slurmctld_knows_is_not_lost_though_squeue_does_not_show_it(tmp_path: Path, knows: str) -> None:
    store, wave = a_wave(tmp_path, 0.0)
    line = f"JobId=9 ArrayJobId=7 ArrayTaskId=0-1%1 JobName=x JobState={knows} Reason=None"
    path = wrapper(tmp_path / "bin", squeue="", sacct=f"echo '{HEADER}'", scontrol=f"echo '{line}'")
    assert [ask(store, path) for _ in range(2)] == [[], []]
    assert store.list(f"{wave.folder}/missed") == []


def test_lost_is_what_no_source_knows_for_a_while_and_whose_heart_stands_still(tmp_path: Path) -> None:
    store, wave = a_wave(tmp_path, 4.0)
    running = "7_0|RUNNING|0:0||1|2|Unknown|9|n1|"  # sacct believes so of a job that slurmctld has lost
    path = wrapper(tmp_path / "bin", squeue="", sacct=f"echo '{HEADER}'; echo '{running}'", scontrol=FORGOTTEN)
    assert ask(store, path) == []
    with beating(store, wave.mark("beats", 0, 1, 0), 0.5):  # one of the two is alive
        told: list[tuple[int, str]] = []
        wait(lambda: told.extend(ask(store, path)) or told, "the other is lost", every_s=0.8)
        assert told == [(0, "lost")]
        assert store.exists(wave.mark("ends", 0, 0, 0))
        assert not store.exists(wave.mark("ends", 0, 1, 0))
    assert (1, "lost") not in ask(store, path)
    wait(lambda: (1, "lost") in ask(store, path), "so is this one", every_s=0.8)


def test_a_source_that_fails_says_nothing(tmp_path: Path) -> None:
    store, _ = a_wave(tmp_path, 0.0)
    away = 'echo "Unable to contact slurm controller" >&2; exit 1'
    for broken in ({"sacct": "echo nonsense"}, {"scontrol": away}):
        path = wrapper(tmp_path / "bin", **{"squeue": "", "sacct": f"echo '{HEADER}'", "scontrol": FORGOTTEN} | broken)
        assert [ask(store, path) for _ in range(2)] == [[], []]


def test_squeue_that_leaves_out_what_runs(place: Place, tmp_path: Path) -> None:
    """For 40 s, while sacct says RUNNING; then it answers from a cache of 20 s. Nothing is queued or made twice."""
    began = time.time()
    cache = tmp_path / "cache"
    path = wrapper(
        tmp_path / "bin",
        squeue=f"now=$(date +%s)\n[ $now -lt {int(began) + 40} ] && exit 0\n"
        f'[ -e {cache} ] && [ $(( now - $(stat -c %Y {cache}) )) -lt 20 ] || squeue "$@" > {cache}\ncat {cache}',
    )
    place.site("throttle: 1", "throttle: 2")
    done = place.run("run", env=path)
    assert done.returncode == 0, done.stderr
    assert set(place.steps_queued().values()) == {1}
    wait(lambda: not place.queue(), "what is done leaves the queue", 60, 0.2)  # it was told of with the cache's delay
    assert not list(place.folder.glob("results/store/attempts/*/*"))
    assert doubled(place.store, place.name) == 0
    assert place.metrics() == place.local_metrics()


# Banners, and refusals without a word.


def test_banners_are_no_answers(place: Place, tmp_path: Path) -> None:
    place.closed()
    say = f"cat <<'END'\n{BANNER}END"
    around = {
        name: f'{say}\n{name} "$@"; code=$?\n{say}\nexit $code' for name in ("sbatch", "squeue", "sacct", "sinfo")
    }
    path = wrapper(tmp_path / "bin", **around)
    done = place("submit", env=path)
    assert done.exit_code == 0, done.output
    queued = {job.partition("_")[0] for job in place.queue()}
    recorded = {job.id for wave in waves(place.store, place.name) for job in jobs_of(place.store, wave)}
    assert recorded == queued
    assert len(queued) == 5
    again = place("submit", env=path)
    assert again.exit_code == 0
    assert set(place.steps_queued().values()) == {1}
    told = json.loads(place("status", "--json", env=path).output)["queue"]
    assert told["sample"] == {"pending": len([job for job in place.queue().values() if job[0].endswith(".2")])}
    assert place("cancel", env=path).exit_code == 0
    assert place.queue() == {}


def test_an_answer_that_is_none_is_not_an_empty_one() -> None:
    assert parse_queue(BANNER) == []
    for text in ("", BANNER, "7_0|RUNNING\n"):
        with pytest.raises(ValueError, match="no header 'JobID'"):
            parse_accounts(text)
    assert parse_accounts(f"{BANNER}{HEADER}\n{BANNER}") == []
    assert parse_jobs(f"{BANNER}JobId=5 JobName=x y JobState=RUNNING Reason=None\n") == {"5": "RUNNING"}


def test_a_refusal_without_a_word_shows_what_there_is(place: Place, tmp_path: Path) -> None:
    place.closed()
    silent = place("submit", env=wrapper(tmp_path / "bin", sbatch="exit 7"))
    assert silent.exit_code == 3
    assert "exit code 7, stdout empty, stderr empty" in silent.output
    loud = place("submit", env=wrapper(tmp_path / "bin", sbatch="echo go away; exit 7"))
    assert "exit code 7, stdout 'go away', stderr empty" in loud.output
    assert place.queue() == {}
    with pytest.raises(QueryFailed, match="squeue failed: exit code 3, go away"):
        Commands(os.environ | wrapper(tmp_path / "bin", squeue="echo go away; exit 3")).queue()


def test_an_answer_that_was_lost(place: Place, tmp_path: Path) -> None:
    """sbatch hands the job over, and says that it could not; the same command finds it by its name."""
    place.closed()
    lost = 'sbatch "$@" > /dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1'
    first = place("submit", env=wrapper(tmp_path / "bin", sbatch=lost))
    assert first.exit_code == 3
    assert "the same command is safe: it first looks whether the job has arrived" in first.output
    assert len(place.queue()) == 1
    assert place("submit").exit_code == 0
    assert set(place.steps_queued().values()) == {1}
    assert len(place.queue()) == 5


# Limits of submission.


@pytest.fixture
def limited(slurm: Cluster) -> Iterator[Callable[[int], None]]:
    yield functools.partial(limit, slurm)
    limit(slurm, -1)


@pytest.fixture(params=[limit, limit_of_qos], ids=["account", "qos"])
def any_limit(slurm: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[Callable[[int], None], str]]:
    """A limit, and Slurm's name of it."""
    set_to = functools.partial(request.param, slurm)
    yield set_to, "AssocMaxSubmitJobLimit" if request.param is limit else "QOSMaxSubmitJobPerUserLimit"
    set_to(-1)


def test_a_limit_is_a_wait(place: Place, any_limit: tuple[Callable[[int], None], str]) -> None:
    """What fits is queued, with the two jobs that continue; a job of somebody else of this user counts."""
    limited, name = any_limit
    place.sweep(MANY_BLOCKS)
    place.closed(*SHORT, "reconcile: manual", "reconcile: job")
    limited(4)
    other = place.cluster.submit("sleep 600", "--partition=closed")
    done = place("submit")
    assert done.exit_code == 0, done.output
    assert f"bundles wait for room in the queue ({name})" in done.output
    names = Counter(name.rpartition(".")[2] for name, _ in place.queue().values())
    assert names["reconcile"] == names["reconcile2"] == 1
    assert len(place.queue()) == 3
    told = place("status").output
    assert f"waiting for room: 4 of 4 of your jobs are queued ({name})" in told
    assert place("submit").exit_code == 0  # nothing more fits: no error
    assert len(place.queue()) == 3
    assert place("cancel").exit_code == 0
    assert list(place.cluster.jobs()) == [other]
    limited(1)
    full = place("submit")
    assert full.exit_code == 3
    assert "nothing is queued: what is left waits for a measured speed and room in the queue" in full.output


def test_a_sweep_ends_by_itself_where_little_fits(place: Place, limited: Callable[[int], None]) -> None:
    limited(5)
    place.site("reconcile: manual", "reconcile: job")
    done = place("submit")
    assert done.exit_code == 0, done.output
    wait(lambda: not place.queue(), "the sweep is over", 240, 0.5)
    assert place.metrics() == place.local_metrics(), place.logs()
    made = re.findall(r" made (\w+ \w+ [\d ]*)in ", place.logs())
    assert len(made) == len(set(made))  # once each
    assert not list(place.folder.glob("results/store/attempts/*/*"))


def test_a_full_cluster_is_told_at_once(place: Place, tmp_path: Path) -> None:
    place.closed()
    words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    began = time.monotonic()
    full = place("submit", env=wrapper(tmp_path / "bin", sbatch=f'echo "{words}" >&2; exec sleep 120'))
    assert full.exit_code == 3
    assert "room in the queue" in full.output
    assert time.monotonic() - began < 100
    assert (place.queue(), place.open_waves()) == ({}, [])


# Why jobs wait.


def queue_notes(place: Place) -> str:
    return "\n".join(json.loads(place("status", "--json").stdout)["queue_notes"])


def test_status_says_why_jobs_wait_and_doctor_does_not_wait_with_them(place: Place) -> None:
    place.closed()
    assert place("submit").exit_code == 0
    closed = "train: 1 wait: PartitionDown; partition: it is closed: name another one in the site file"
    for words in (closed, "sample: 1 wait: Dependency"):  # Slurm finds a reason when its scheduler comes to the job
        wait(lambda words=words: words in queue_notes(place), words, 120)
    assert closed in place("status").output
    began = time.monotonic()
    rows = {row["name"]: row for row in json.loads(place("doctor", "--json").stdout)["rows"]}
    assert time.monotonic() - began < 100
    assert "will not start by itself (PartitionDown): partition: it is closed" in rows["job"]["detail"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ReqNodeNotAvail, UnavailableNodes:n1", "partition: its nodes are down"),
        ("QOSMaxWallDurationPerJobLimit", "stages.train.minutes: lower it"),
        ("AssocMaxGRESPerJob", "stages.train.gpus: lower it"),
        ("QOSMaxMemoryPerJob", "stages.train.memory_gb: lower it"),
        ("JobHeldAdmin", "an administrator holds it"),
        ("launch failed requeued held", "`scontrol release 7` lets it go"),
        *((passing, "") for passing in ("Resources", "Priority", "Dependency", "QOSMaxJobsPerUserLimit", "None")),
    ],
)
def test_reasons_and_their_fixes(reason: str, words: str) -> None:
    assert words in advice(reason, "train", "7")
    assert bool(advice(reason, "train", "7")) == bool(words)
    assert len({pattern for pattern, *_ in ADVICE}) == len(ADVICE)


def test_a_slurmctld_that_is_away_is_no_fault_of_the_site_file(place: Place) -> None:
    away = place.cluster.failing("scontrol", "slurm_load_partitions: Unable to contact slurm controller")
    rows = {row["name"]: row for row in json.loads(place("doctor", "--json", env=away).stdout)["rows"]}
    assert rows["site"]["fix"].startswith("Slurm does not answer here now, which says nothing about the site file.")


# Faults of the site, and a campaign that has ended.


def test_a_site_where_nothing_starts_stops_early(place: Place) -> None:
    place.sweep(MANY_BLOCKS)
    place.site(*SHORT, more="python: /nowhere/python\n")
    assert place("submit").exit_code == 0
    assert len(place.queue()) > 60
    wait(lambda: not place.queue(), "nothing is queued", 120, 0.5)
    began = [path for path in place.folder.rglob("*_log.out") if "srun: error" in path.read_text()]
    assert CANARIES <= len(began) <= 30
    ended = place("submit")
    assert ended.exit_code == 3, ended.output
    assert "array tasks ended before they began to work" in ended.output
    assert "/nowhere/python: No such file or directory" in ended.output
    assert place.queue() == {}
    assert place.open_waves() == []
    place.site("reconcile: manual", "reconcile: job", more="python: /nowhere/python\n")
    assert place("submit").exit_code == 0
    wait(lambda: not place.queue(), "nothing is queued", 120, 0.5)
    told = place("status").output
    assert "the job that continues the sweep (reconcile) is not in the queue; its last words: " in told
    assert "/nowhere/python: No such file or directory (log: " in told
    shown = [line for line in place("logs").output.splitlines() if line.startswith("reconcile")]
    assert shown
    assert all("/nowhere/python: No such file or directory" in line for line in shown)


@pytest.mark.parametrize(("starts", "code", "cancelled"), [(False, 2, True), (True, 2, False), (False, 143, False)])
def test_canaries(tmp_path: Path, starts: bool, code: int, cancelled: bool) -> None:
    path = wrapper(tmp_path / "bin", scancel=f'echo "$@" >> {tmp_path}/cancelled')
    begin = [f'touch "${STARTED}"'] if starts else []
    script = "\n".join([*canary(tmp_path), *begin, f"exit {code}"])
    for index in range(CANARIES):
        env = dict(os.environ) | path | {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_JOB_ID": "7"}
        assert subprocess.run(["bash", "-c", script], env=env, check=False).returncode == code
    assert (tmp_path / "cancelled").exists() == cancelled
    if cancelled:
        assert (tmp_path / "cancelled").read_text() == "--state=PENDING 7\n"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("slurmstepd: error: execve(): p: No such file\nsrun: error: n1: task 0: Exited with exit code 2\n", 0),
        ("Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'torch'\nsrun: error: x: task 0"
         ": Exited with exit code 1\n", 2),
        ("Lmod has detected: module(s) are unknown: cuda\nsrun: error: n1: task 0: Exited with exit code 1\n", 0),
        ("working\nstill working\n", 1),
    ],
)  # fmt: skip
def test_the_line_that_tells_it(log: str, line: int) -> None:
    assert telling_line(log) == log.splitlines()[line].strip()


# A user without a name.


def test_a_uid_without_a_passwd_entry(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    code = (
        "import os\n"
        "from orchestrator.backends.slurm.commands import Commands, Unsupported\n"
        "from orchestrator.backends.slurm.owner import owner\n"
        "os.setuid(54321)\n"
        "try:\n    Commands().associations()\nexcept Unsupported as error:\n    print(owner(), error)\n"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "uid54321 sacctmgr: user 54321 has no name on this machine\n", done.stderr
