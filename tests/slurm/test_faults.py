"""Whatever happens to a cluster, a sweep on it ends in the numbers of an undisturbed run, without a person.

Each scenario is a sweep of its own (tests/slurm/faults.py). Those that disturb only their own array tasks or nodes run
side by side, on nodes of their own; each test waits for one of them.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from tests.slurm.cluster import Cluster, wait
from tests.slurm.conftest import up
from tests.slurm.disturbances import mounted, preempt
from tests.slurm.faults import SWEEP, undisturbed
from tests.slurm.lab import SILENT, WARNING, Lab, by_hand, by_time
from tests.slurm.running import changed

pytestmark = pytest.mark.timeout(900)

AT_ONCE = 3  # scenarios
STEPS, SECONDS_LOST = 200, 12  # of the training; the seconds are those from the last signal to the end (KillWait)
ONE_ARRAY_TASK = ("target_minutes: 5", "target_minutes: 60", "sample: {minutes: 6", "sample: {minutes: 90")

SIDE_BY_SIDE: dict[str, Callable[[Lab], None]] = {}


def side_by_side(scenario: Callable[[Lab], None]) -> Callable[[Lab], None]:
    SIDE_BY_SIDE[scenario.__name__] = scenario
    return scenario


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("faults")
    with contextlib.ExitStack() as stack:
        warning, silent = stack.enter_context(up(WARNING)), stack.enter_context(up(SILENT))
        base = undisturbed(folder / "base")
        assert base.failed == {}
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        made = Lab(folder, warning, silent, base, pool)
        wanted = {
            getattr(item, "callspec", None) and item.callspec.params.get("scenario") for item in request.session.items
        }
        for name, scenario in SIDE_BY_SIDE.items():
            if name in wanted:
                made.under_way[name] = pool.submit(scenario, made)
        stack.callback(pool.shutdown, cancel_futures=True)
        yield made


@side_by_side
def a_block_that_never_ends(lab: Lab) -> None:
    """Slurm ends its array task at the time limit, and it goes on at the next block. The second time without progress
    the bundle is split; by then the block no longer hangs.
    """
    one_minute = ("sample: {minutes: 6", "sample: {minutes: 1", "target_minutes: 5", "target_minutes: 0.9")
    trial = lab.trial("timeout", *one_minute, cluster=lab.silent)
    for kind in ("sample", "extract"):  # speeds are known, so one array task has it all
        trial.copy(f"blocks/{trial.digests(kind)[0]}/000000.safetensors")
    (trial.faults / "hang-60").touch()
    _, over = trial.start("run")
    trial.wait_for(lambda: len(trial.causes()) >= 2, "it has come to its limit twice", 600)
    (trial.faults / "hang-60").unlink()
    done = over()
    assert done.returncode == 0, done.stderr
    assert [(attempt["cause"], attempt["at"]) for attempt in trial.attempts()] == [("timeout", 3)] * 2
    last = [array["elements"] for array in trial.arrays() if array["kind"] == "sample"][-1]
    assert [[len(bundle[2]) for bundle in bundles] for bundles in last] == [[2]] * 5  # a block and its features each
    trial.done(lost=2)


@side_by_side
def a_task_is_killed_and_another_requeued(lab: Lab) -> None:
    """The first copy of the one that is requeued goes on computing until Slurm kills it."""
    trial = lab.trial("killed", "throttle: 1", "throttle: 3")
    trial.says(pace=1)
    _, over = trial.start("run")
    trial.wait_for(lambda: trial.blocks() >= 3 and len(trial.tasks("sample")) >= 2, "two array tasks are at work")
    killed, requeued = trial.tasks("sample")[:2]
    killed.kill()
    trial.cluster.out("scontrol", "requeue", requeued.job)
    before = trial.blocks()
    trial.wait_for(lambda: trial.blocks() > before, "the first copy goes on, or another array task does")
    done = over()
    assert done.returncode == 0, done.stderr
    attempts = {attempt["job"]: attempt for attempt in trial.attempts()}
    assert attempts[killed.job]["cause"] == "died"
    assert "signal 9" in attempts[killed.job]["reason"]
    assert attempts[requeued.job]["cause"] == "preempted"
    assert "DUE TO JOB REQUEUE" in attempts[requeued.job]["reason"]
    assert set(attempts) == {killed.job, requeued.job}
    for attempt in attempts.values():
        assert attempt["host"] in trial.cluster.nodes
        assert Path(attempt["log"]).exists()
    assert "trying again" in done.stderr
    trial.done(lost=2)


@side_by_side
def a_training_is_killed_and_requeued(lab: Lab) -> None:
    trial = lab.trial("training", "reconcile: manual", "reconcile: job", trained=False)
    trial.says(step=0.05)
    trial.submit()
    trial.wait_for(lambda: trial.checkpoint() > 0 and trial.tasks("train"), "there is a checkpoint")
    (task,) = trial.tasks("train")
    trial.cluster.out("scontrol", "requeue", task.job)
    trial.wait_for(lambda: not trial.tasks("train"), "it is gone")
    first = trial.checkpoint()
    trial.wait_for(lambda: trial.tasks("train") and trial.checkpoint() > first, "it goes on")
    second, (task,) = trial.checkpoint(), trial.tasks("train")
    task.kill()
    trial.wait_for(lambda: not trial.queue(), "the sweep is over", 600)
    assert trial.causes() == ["preempted", "died"]
    assert [attempt["kind"] for attempt in trial.attempts()] == ["train", "train"]
    assert min(trial.resumed_at()) >= second
    trial.done(lost=0)


@side_by_side
def nodes_are_lost(lab: Lab) -> None:
    """One loses only its daemon: its task computes on while a second copy runs elsewhere. The other loses its power."""
    whole_nodes = ("sample: {minutes: 6, memory_gb: 2, cpus: 1}", "sample: {minutes: 6, memory_gb: 2, cpus: 4}")
    trial = lab.trial("nodes", "throttle: 1", "throttle: 3", *whole_nodes, partition="weak")
    trial.says(pace=15)
    process, over = trial.start("run")
    trial.wait_for(lambda: len(trial.tasks("sample")) == 3 and trial.blocks() >= 1, "three array tasks are at work")
    alive, dead, _ = trial.tasks("sample")
    trial.cluster.kill_slurmd(alive.node, with_tasks=False)
    trial.cluster.kill_slurmd(dead.node, with_tasks=True)
    again = {alive.job: 0, dead.job: 0}

    def both_again() -> bool:
        for task in trial.tasks("sample"):
            if task.job in again and task.pid not in (alive.pid, dead.pid):
                again[task.job] = task.pid
        return all(again.values())

    trial.wait_for(lambda: both_again() or process.poll() is not None, "both run again", 400)
    assert alive.runs() or process.poll() is not None, "the first copy of one still computes"
    trial.says(pace=0.5)
    for node in (alive.node, dead.node):
        trial.cluster.start_slurmd(node, wait_s=0)
    done = over()
    assert done.returncode == 0, done.stderr
    attempts = {attempt["job"]: attempt for attempt in trial.attempts()}
    assert {job: attempts[job]["cause"] for job in (alive.job, dead.job)} == {alive.job: "node", dead.job: "node"}
    assert attempts[dead.job]["host"] == dead.node
    trial.done()


def preempted(lab: Lab, cluster: Cluster, partition: str, name: str) -> None:
    """First while it trains, without any checkpoint but those that the signals ask for; then while it samples."""
    trial = lab.trial(name, "reconcile: manual", "reconcile: job", cluster=cluster, partition=partition, trained=False)
    trial.says(step=0.3, pace=6)
    done = trial.run("submit", "--checkpoint-seconds", "600")
    assert done.returncode == 0, done.stderr
    trial.wait_for(lambda: trial.count("steps") > 10, "it trains")
    (task,) = trial.tasks("train")
    preempt(trial.cluster, task.node)
    trial.wait_for(lambda: not task.runs(), "the training is gone")
    reached = trial.checkpoint()
    assert reached > 0, "it was warned, and wrote where it stood"
    trial.says(step=0.02)
    trial.wait_for(lambda: trial.blocks() >= 1 and trial.tasks("sample"), "it samples", 180)
    (task, *_) = trial.tasks("sample")
    preempt(trial.cluster, task.node)
    trial.wait_for(lambda: not task.runs(), "the array task is gone")
    trial.says(pace=0.2)
    trial.wait_for(lambda: not trial.queue(), "the sweep is over", 600)
    assert set(trial.causes()) == {"preempted"}
    assert [attempt["kind"] == "train" for attempt in sorted(trial.attempts(), key=by_time)] == [True, False]
    assert min(trial.resumed_at()) == reached
    assert trial.count("steps") - STEPS <= SECONDS_LOST / 0.3
    trial.done(lost=1)


@side_by_side
def preempted_with_a_warning_and_no_grace(lab: Lab) -> None:
    preempted(lab, lab.warning, "grace0", "warned0")


@side_by_side
def preempted_with_a_warning_and_20_s(lab: Lab) -> None:
    preempted(lab, lab.warning, "grace20", "warned20")


@side_by_side
def preempted_without_a_warning_and_no_grace(lab: Lab) -> None:
    preempted(lab, lab.silent, "grace0", "silent0")


@side_by_side
def preempted_without_a_warning_and_20_s(lab: Lab) -> None:
    preempted(lab, lab.silent, "grace20", "silent20")


@side_by_side
def a_store_that_is_read_only_and_then_full(lab: Lab) -> None:
    with mounted(lab.folder / "disk" / "results", megabytes=24) as remount:
        trial = lab.trial("disk")
        trial.says(pace=0.3)
        trial.submit()
        trial.wait_for(lambda: trial.blocks() >= 3, "it samples")
        remount("ro")
        trial.wait_for(lambda: "Read-only file system" in trial.logs(), "it notices")
        before = trial.blocks()
        remount("rw")
        trial.wait_for(lambda: trial.blocks() > before, "it goes on")
        full = lab.folder / "disk" / "results" / "full"
        with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        trial.wait_for(lambda: "No space left on device" in trial.logs(), "it notices")
        full.unlink()
        trial.wait_for(lambda: not trial.queue(), "the sweep is over")
        assert trial.causes() == []
        trial.done()


@side_by_side
def a_store_without_hard_links(lab: Lab) -> None:
    """And two copies of an array task write to it."""
    trial = lab.trial("links", "throttle: 1", "throttle: 2")
    trial.refuse_links()
    trial.says(pace=1)
    _, over = trial.start("run")
    trial.wait_for(lambda: trial.blocks() >= 2, "it samples")
    (task, *_) = trial.tasks("sample")
    trial.cluster.out("scontrol", "requeue", task.job)
    done = over()
    assert done.returncode == 0, done.stderr
    assert (trial.folder / "refused").stat().st_size > 30
    assert trial.causes() == ["preempted"]
    assert not [path for path in Path(trial.store.root).rglob(".*") if "claim" in path.name]
    trial.done(lost=1)


@side_by_side
def the_reconcile_job_is_killed_and_a_block_truncated(lab: Lab) -> None:
    trial = lab.trial("reconcile", "reconcile: manual", "reconcile: job", *ONE_ARRAY_TASK)
    trial.says(pace=0.5)
    trial.submit()
    trial.wait_for(lambda: trial.blocks() >= 5, "it samples")
    (task,) = trial.tasks("sample")
    task.kill()
    features = Path(trial.store.path(f"blocks/{trial.digests('extract')[0]}/000000.safetensors"))
    features.write_bytes(features.read_bytes()[:100])
    trial.wait_for(lambda: trial.reconciler() is not None, "the reconcile job is at work")
    if (reconciler := trial.reconciler()) is not None:
        reconciler.kill()
    trial.wait_for(lambda: not trial.queue(), "the sweep is over", 600)
    assert trial.causes() == ["died"]
    trial.done(damaged=1)


@side_by_side
def cells_that_always_fail(lab: Lab) -> None:
    """Their arm stops after the third; the rest is as in peace. The command of an attempt does it again by hand."""
    sampler = "sampler: {use: ./paced.py:Paced, steps: 2, trouble: %s}"
    broken = f"  broken: {{nag: {{scale: {{grid: [1, 2, 3, 4, 5, 6, 7]}}}}, {sampler % 'input'}}}\n"
    text = changed(SWEEP, "  nag: {nag: {scale: 1.0}}\n", f"{broken}  nan: {{{sampler % 'nan'}}}\n")
    trial = lab.trial("failing", *ONE_ARRAY_TASK, text=text)
    done = trial.run("run")
    assert done.returncode == 1, done.stderr
    assert "arm broken: 3 cells failed alike, so the other 4 are skipped" in done.stderr
    attempts = trial.attempts()
    assert sorted(attempt["cause"] for attempt in attempts) == ["bad_input"] * 3 + ["not_finite"]
    assert all("by hand: " in line for line in done.stderr.splitlines() if " failed: " in line)
    assert f"to run it by hand: {attempts[0]['again']}" in trial.logs()
    again = by_hand(trial, attempts[0])
    assert again.returncode == 1
    assert "ValueError: these 20 samples are not to be had" in again.stderr
    report = trial.run("report")
    assert report.returncode == 1
    trial.same(arms=("plain", "late"))
    assert not trial.queue()


@side_by_side
def a_device_that_is_too_small(lab: Lab) -> None:
    trial = lab.trial("device")
    trial.says(most=10)
    done = trial.run("run", "--micro-batch", "20")
    assert done.returncode == 0, done.stderr
    assert {(a["cause"], a["micro_batch"]) for a in trial.attempts()} == {("device_memory", 20)}
    for path in Path(trial.store.root).glob("blocks/*/*.safetensors"):
        record = Store(trial.store.url).read_arrays(f"blocks/{path.parent.name}/{path.name}")[1]
        assert record.get("micro_batch", 10) == 10
    trial.done(atol=1)


@side_by_side
def a_host_with_too_little_memory(lab: Lab) -> None:
    trial = lab.trial("memory", *ONE_ARRAY_TASK)
    trial.says(gigabytes=2.5)
    done = trial.run("run")
    assert done.returncode == 0, done.stderr
    (attempt,) = trial.attempts()
    assert attempt["cause"] == "host_memory"
    assert [array["resources"]["memory_gb"] for array in trial.arrays() if array["kind"] == "sample"] == [2, 4]
    trial.done(lost=1)


@side_by_side
def nobody_who_keeps_accounts(lab: Lab) -> None:
    """Without sacct, in the hands of a person who repeats by hand what has died while Slurm does it too."""
    trial = lab.trial("unaccounted", *ONE_ARRAY_TASK)
    trial.env["PATH"] = trial.cluster.without("sacct")["PATH"]
    trial.says(pace=0.5)
    trial.submit()
    trial.wait_for(lambda: trial.blocks() >= 2, "it samples")
    trial.tasks("sample")[0].kill()
    trial.wait_for(lambda: not trial.queue(), "all is over")
    trial.submit()
    (attempt,) = trial.attempts()
    assert attempt["cause"] == "died"
    assert "signal 9" in attempt["reason"]
    again = by_hand(trial, attempt)
    assert again.returncode == 0, again.stderr
    assert "made sample" in again.stderr
    trial.wait_for(lambda: not trial.queue(), "all is over")
    trial.done()


@side_by_side
def two_engines_under_random_kills(lab: Lab) -> None:
    trial = lab.trial("engines", "throttle: 1", "throttle: 2")
    trial.says(pace=1)
    chance = random.Random(7)
    engines = [trial.start("run") for _ in range(2)]
    for _ in range(4):
        time.sleep(chance.uniform(1, 5))
        at = chance.randrange(2)
        process, over = engines[at]
        if process.poll() is None:
            process.kill()
            over()
            engines[at] = trial.start("run")
    for _, over in engines:
        done = over()
        assert done.returncode == 0, done.stderr
    assert trial.causes() == []
    assert set(trial.steps_queued().values()) == {1}
    trial.done(lost=0)


@pytest.mark.parametrize("scenario", SIDE_BY_SIDE)
def test(lab: Lab, scenario: str) -> None:
    future = lab.under_way.pop(scenario, None)
    if future is not None:
        future.result()
        return
    again = replace(lab, folder=lab.folder / f"{scenario}-again")  # its second chance
    again.folder.mkdir()
    SIDE_BY_SIDE[scenario](again)


def test_slurms_own_daemons_are_away(lab: Lab) -> None:
    """Tasks are killed meanwhile. Without slurmdbd squeue tells of it; without slurmctld nobody does."""
    for future in lab.under_way.values():
        future.exception()  # the others are over by then
    trial = lab.trial("daemons", "throttle: 1", "throttle: 3")
    trial.says(pace=1.5)
    _, over = trial.start("run")
    trial.wait_for(lambda: len(trial.tasks("sample")) == 3 and trial.blocks() >= 3, "three array tasks are at work")
    first, second, _ = trial.tasks("sample")
    trial.cluster.stop_slurmdbd()
    try:
        first.kill()
        trial.wait_for(lambda: trial.causes() == ["died"], "squeue has told")
        trial.cluster.daemons["slurmctld"].terminate()
        trial.cluster.daemons["slurmctld"].wait(90)
        second.kill()
        time.sleep(5)
        assert trial.causes() == ["died"]
        trial.cluster.start_slurmctld()
    finally:
        trial.cluster.start_slurmdbd()
    done = over()
    assert done.returncode == 0, done.stderr
    assert {attempt["job"]: attempt["cause"] for attempt in trial.attempts()} == {first.job: "died", second.job: "died"}
    wait(lambda: not trial.queue(), "nothing is left")
    trial.done(lost=2)
