"""Whose jobs these are: edited sweeps, two files of one name, renamed jobs, other clusters; what an interrupted command
leaves. Nothing runs here, unless a test says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.backends.slurm import patience
from orchestrator.backends.slurm.array_task import ArrayTaskRunner
from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.jobs import ArrayJobs, queue_lock
from orchestrator.backends.slurm.ledger import cancel_jobs
from orchestrator.backends.slurm.owner import owner
from orchestrator.backends.slurm.queueing import options
from orchestrator.backends.slurm.reasons import advice
from orchestrator.backends.slurm.settings import Resources, SlurmSettings
from orchestrator.backends.slurm.slurm_output import QUEUE, parse_queue
from orchestrator.backends.slurm.waves import Wave, next_jobs, waves
from orchestrator.commands.app import app
from orchestrator.errors import EnvironmentProblem
from orchestrator.store.store import Store
from tests.orchestrator.conftest import heed_ctrl_c
from tests.slurm.cluster import Cluster, wait
from tests.slurm.running import SMALL, Place, changed, wrapper
from tests.slurm.test_real_sites import FORGOTTEN, HEADER, a_wave

ONE_EACH = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 1")
NAG = "  nag: {nag: {scale: 1.0}}\n"


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "me", slurm)
    made.closed(*ONE_EACH)
    yield made
    slurm.run("scancel", "--user=root")


def test_what_an_edit_left_can_be_cancelled(place: Place) -> None:
    assert place("submit").exit_code == 0
    before = place.queue()
    place.sweep(changed(SMALL, "  nag:", "  other_name:"))  # a name alone changes nothing
    told = place("plan", "--diff").stdout
    assert "added  0 cells, 0 tasks" in told
    assert "left   0 cells, 0 tasks" in told
    place.sweep(changed(SMALL, NAG, "  far: {nag: {scale: 2.0}}\n"))
    assert place("cancel", "--arm", "nag").exit_code == 2  # it is no arm any more
    told = place("plan", "--diff").stdout
    assert "added  1 cell (far 1), " in told
    assert "kept   1 cell (plain 1), " in told
    assert "left   1 cell (nag 1), " in told
    assert "--obsolete ends what is queued of it" in told
    ended = place("cancel", "--obsolete")
    assert ended.exit_code == 0, ended.output
    left = place.queue()
    assert left.keys() < before.keys()
    assert f"Ended: {len(before) - len(left)} array tasks." in ended.output
    assert "Ended: 0 array tasks." in place("cancel", "--obsolete").output
    assert place("submit").exit_code == 0
    assert left.keys() < place.queue().keys()


def test_two_files_of_one_name(place: Place) -> None:
    assert place("submit").exit_code == 0
    first = place.queue()
    (place.folder / "copy.yaml").write_text(changed(SMALL, NAG, "  far: {nag: {scale: 2.0}}\n"))
    with place.inside():
        said = CliRunner().invoke(app, ["submit", "copy.yaml", "--site", "site.yaml", "--tracking", "none"])
        assert said.exit_code == 0, said.output
        assert f"sweep small was last run here from another file, {place.folder}/sweep.yaml" in said.output
        assert first.keys() < place.queue().keys()
        said = CliRunner().invoke(app, ["cancel", "copy.yaml"])
        assert said.exit_code == 0, said.output
        assert f"were queued from {place.folder}/sweep.yaml: cancel that one, or the sweep by its name" in said.output
        assert place.queue().keys() == first.keys()
        assert CliRunner().invoke(app, ["cancel", "small"]).exit_code == 0
    assert place.queue() == {}


def test_a_path_that_slurm_would_read_as_a_pattern(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path / "50%j", slurm)
    place.closed()
    refused = place("submit")
    assert refused.exit_code == 2
    assert "Slurm does not take a % in the name of a log's folder" in refused.output
    assert "folder in " in refused.output
    assert place.queue() == {}


def test_jobs_that_a_site_renames(place: Place, tmp_path: Path) -> None:
    """They are found by id and comment: nothing is queued twice, and all are cancelled."""
    place.closed(*ONE_EACH, "reconcile: manual", "reconcile: job")
    path = wrapper(tmp_path / "bin", sbatch='exec sbatch --job-name=renamed "$@"')
    assert place("submit", env=path).exit_code == 0
    queued = set(place.cluster.jobs())
    assert len(queued) > 5
    assert set(place.cluster.out("squeue", "-h", "-o", "%j").split()) == {"renamed"}
    (wave,) = waves(place.store, "small")
    assert len(next_jobs(place.store, wave) & queued) == 2
    assert "is not in the queue" not in place("status", env=path).output
    job = place.store.path(wave.job_name(0))
    os.unlink(job)  # as if its engine had been killed before it recorded the id
    assert place("submit", env=path).exit_code == 0
    assert set(place.cluster.jobs()) == queued
    assert os.path.exists(job)
    assert place("cancel", env=path).exit_code == 0
    assert place.cluster.jobs() == {}


def test_what_ctrl_c_leaves_and_a_requeue_in_held_state(place: Place) -> None:
    """Here the first array task runs, and is requeued and held."""
    place.site(more="setup: [sleep 300]\n")
    process, said = place.start("run", preexec_fn=heed_ctrl_c)
    wait(lambda: "RUNNING" in place.cluster.jobs().values(), "the training runs", 120)
    job = next(job for job, state in place.cluster.jobs().items() if state == "RUNNING")
    place.cluster.out("scontrol", "requeuehold", job)
    held = f"`scontrol release {job}` lets it go"
    wait(lambda: held in place("status").output, "status tells that it is held", 120, 0.5)
    time.sleep(3)  # several looks of `run`
    process.send_signal(signal.SIGINT)
    done = said()
    assert done.returncode == 130
    assert f"job {job} (" in done.stderr
    assert "will not start by itself" in done.stderr
    assert held in done.stderr
    assert "Slurm still has " in done.stderr
    assert "which will go on. To cancel: nagbench cancel sweep.yaml" in done.stderr
    assert len(place.queue()) == 5


def test_ctrl_c_in_submit(place: Place, tmp_path: Path) -> None:
    slow = f'echo >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -gt 2 ] && exec sleep 60; exec sbatch "$@"'
    process, said = place.start("submit", env=wrapper(tmp_path / "bin", sbatch=slow), preexec_fn=heed_ctrl_c)
    wait(lambda: len((tmp_path / "calls").read_text()) > 2, "two arrays are queued", 120)
    process.send_signal(signal.SIGINT)
    done = said()
    assert done.returncode == 130
    assert "Slurm still has " in done.stderr
    assert "nagbench cancel sweep.yaml" in done.stderr
    assert "Ended: " in place("cancel").output
    assert place.queue() == {}


# With wrappers in front of the commands: what a small Slurm is not.


def test_another_engine_that_queues_is_told(tmp_path: Path) -> None:
    store, notes = Store(str(tmp_path / "store")), list[str]()
    store.open()
    holder = {"until": time.time() + 6, "host": "login9", "pid": 7, "born": ""}
    store.create_record("leases/queue/000001.json", holder)
    with queue_lock(store, notes.append):
        pass
    assert len(notes) == 1
    assert "another nagbench (process 7 on login9) is queueing for this store; waiting. If it was killed" in notes[0]


def anothers_wave(folder: Path, **record: object) -> Store:
    """A wave of the array task of `a_wave`, with another record."""
    store, wave = a_wave(folder, 0.0)
    store.delete(f"{wave.folder}/wave.json")
    store.create_record(f"{wave.folder}/wave.json", {**wave.record, **record})
    return store


def ended(store: Store, path: dict[str, str]) -> tuple[list[int], list[str]]:
    notes: list[str] = []
    jobs = ArrayJobs(store, "small", Commands(dict(os.environ) | path), notes.append)
    jobs.read()
    return [each.index for each in jobs.ended()], notes


@pytest.mark.parametrize("private", ["none", "accounts,jobs"])
def test_where_slurm_shows_nobody_elses_jobs_they_are_waited_for(tmp_path: Path, private: str) -> None:
    store = anothers_wave(tmp_path, uid=os.getuid() + 1, owner="ann")
    says = f'case "$*" in *config*) echo "PrivateData = {private}"; exit;; esac\n{FORGOTTEN}'
    squeue = f'case "$*" in *--jobs=7*) {FORGOTTEN};; esac'  # there are none of one's own
    path = wrapper(tmp_path / "bin", squeue=squeue, sacct=f"echo '{HEADER}'", scontrol=says)
    hidden = private != "none"
    found, notes = ended(store, path)
    assert found == ([] if hidden else [0, 1])
    told = [note for note in notes if "job 7 is ann's, and Slurm shows you only your own jobs" in note]
    assert len(told) == hidden


def test_another_clusters_jobs_are_not_asked_for_and_not_cancelled(tmp_path: Path) -> None:
    """An id of that cluster may be that of another job here."""
    store = anothers_wave(tmp_path, uid=os.getuid(), owner=owner(), cluster="there", host="far")
    row = "|".join(f" {value:>3}" for value in ("7_0", "RUNNING", 0, 0, 1, 2, 3, "n1", "None", "mine", ""))
    path = wrapper(
        tmp_path / "bin",
        squeue=f"echo '{row}|'",
        scontrol='echo "ClusterName = here"',
        sacct=f"echo '{HEADER}'; echo '7_0|COMPLETED|0:0|0:0|1|2|3|9|n1|'",
        scancel=f'echo "$@" >> {tmp_path}/cancelled',
    )
    assert ended(store, path) == ([], [])
    notes: list[str] = []
    jobs = ArrayJobs(store, "small", Commands(dict(os.environ) | path), notes.append)
    assert cancel_jobs(jobs, owner(), None, wait_s=1.0) == (0, True)
    assert not (tmp_path / "cancelled").exists()
    assert "2 array tasks are on cluster there: they end before their next step, or cancel them there" in notes
    (wave,) = waves(store, "small")  # it is not over
    assert store.list(f"{wave.folder}/stops")  # which its array tasks read


def test_names_by_comment_and_states_of_held_jobs() -> None:
    def row(name: str, comment: str, state: str = "PENDING", reason: str = "None") -> str:
        values = ("7_0", state, "0", "0", "1", "2", "3", "", reason, name, comment)
        return "".join(f"{value:<{size}}|" for value, size in zip(values, QUEUE.values(), strict=True))

    rows = parse_queue("\n".join([
        row("nb.me.small.a-b.0", "nb.me.small.a-b.0"), row("job", "nb.me.small.a-b.0"), row("a|b", "(null)"),
        row("nb.me.small.a-b.0", "of the site"), row("x", "y", "REQUEUE_HOLD", "job requeued in held state"),
        row("x", "y", reason="job_requeued_in_held_state"), row("x", "y", reason="JobHeldUser"),
    ]))  # fmt: skip
    ours = "nb.me.small.a-b.0"
    assert [each.name for each in rows] == [ours, ours, "a|b", ours, "x", "x", "x"]
    assert [each.stuck for each in rows] == [False, False, False, False, True, True, False]
    for reason in ("job requeued in held state", "job_requeued_in_held_state", "launch failed requeued held"):
        assert "scontrol release 7" in advice(reason, "train", "7")


def test_a_process_that_hangs_does_not_outlive_the_others() -> None:
    """They end by themselves (tests/nag/test_distributed.py), and srun ends the rest of the job step."""
    site = SlurmSettings()
    assert options(site, "x", Resources(1, 1, 2, 2), 2, ())["srun_args"] == ["--kill-on-bad-exit=1"]
    assert options(site, "x", Resources(1, 1, 2, 1, nodes=2), 1, ())["srun_args"] == ["--kill-on-bad-exit=1"]
    assert "srun_args" not in options(site, "x", Resources(1, 1, 2, 1), 1, ())


def test_a_node_that_does_not_have_the_store_says_so_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "UNSEEN_S", 0.1)
    monkeypatch.setattr(patience, "WAIT_S", 0.1)
    runner = ArrayTaskRunner(Store(str(tmp_path / "nowhere")), Wave("small", 1), 0, 0, "plan", {}, by_hand=True)
    with pytest.raises(EnvironmentProblem, match=r" has no folder .*nowhere, the store of this sweep"):
        runner.run()
