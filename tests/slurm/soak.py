"""`make soak`, or `python -m tests.slurm.soak [ROUNDS] [SEED]`: sweeps on a cluster of our own on which all goes wrong.

In each round one sweep runs, and all of FAULTS befall it in random order. After that it must have the numbers of an
undisturbed run bit for bit, nothing that was done may have been done again, and nothing may be left in the queue. In
half of the rounds a second user submits and cancels the same sweep in the group's store. Each round prints one line;
the seed is printed, and the same seed gives the same order.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.orchestrator.conftest import Ran
from tests.slurm.accounts import Account, accounts
from tests.slurm.cluster import Cluster, absent, cluster, wait
from tests.slurm.colleague import Colleague, Shown, open_to_all
from tests.slurm.configuration import Settings
from tests.slurm.disturbances import Hiding, fill, limit, mounted, preempt, truncate
from tests.slurm.faults import ARMS, SWEEP, Trial, undisturbed
from tests.slurm.running import changed, wrapper

ROUNDS = 10
ROUND_S = 1200.0  # in which a round must be over
CALM = "PartitionName=calm Nodes=ALL State=UP PreemptMode=OFF\n"
GRACE = "PartitionName=grace20 Nodes=ALL State=UP PreemptMode=REQUEUE GraceTime=20\n"
CLUSTER = Settings(nodes=5, gpus=1, preempt=True, user_signal=True, enforce_memory=True, extra=CALM + GRACE)

SAMPLER = "sampler: {use: ./paced.py:Paced, steps: 2, trouble: %s}"
TEXT = changed(
    SWEEP,
    *("{count: 160, block: 20}", "{count: 200, block: 20}"),
    *("arms:\n", f"arms:\n  broken: {{nag: {{scale: {{grid: [1, 2, 3, 4, 5, 6]}}}}, {SAMPLER % 'input'}}}\n"),
    *("late: {", f"small: {{{SAMPLER % 'device'}}}\n  late: {{"),
)
SITE = (
    *("throttle: 1", "throttle: 4"),
    *("sample: {minutes: 6", "sample: {minutes: 2"),
    *("target_minutes: 5", "target_minutes: 1.5"),
    *("visible_after_s: 3", "visible_after_s: 60"),
)
# As the file `squeue` of a trial's faults says, the command leaves out all jobs or answers from a cache.
SQUEUE = """\
said=$(cat {faults}/squeue 2>/dev/null)
[ "$said" = omits ] && exit 0
[ "$said" = lags ] || exec squeue "$@"
cache={faults}/squeue-$(echo "$*" | cksum | cut -d ' ' -f 1)
[ -e $cache ] || squeue "$@" > $cache
cat $cache"""


@dataclass
class Round:
    trial: Trial
    chance: random.Random
    job: bool  # whether reconcile jobs go on; else two engines watch
    remount: Callable[[str], None]
    colleague: Colleague | None = None  # works on the same sweep
    engines: list[Any] = field(default_factory=list)
    doomed: bool = False  # the reconcile job

    @property
    def cluster(self) -> Cluster:
        return self.trial.cluster

    def task(self) -> Any:
        """One that is at work; waits for one. Raises TimeoutError."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [task for kind in ("sample", "train") for task in self.trial.tasks(kind)]
            return bool(found)

        wait(look, "a task is at work", 90, 0.3)
        return self.chance.choice(found)

    def theirs(self) -> list[str]:
        return self.colleague.queue() if self.colleague is not None else []

    def over(self) -> bool:
        if self.job:
            return not self.trial.queue() and not self.theirs()
        return all(process.poll() is not None for process, _ in self.engines)


def a_task_is_killed(now: Round) -> None:
    now.task().kill()


def an_array_task_is_requeued(now: Round) -> None:
    now.cluster.run("scontrol", "requeue", now.task().job)


def a_node_is_wanted_by_others(now: Round) -> None:
    preempt(now.cluster, now.task().node)


def a_daemon_of_a_node_dies(now: Round) -> None:
    _lose(now, with_tasks=False)


def a_node_loses_its_power(now: Round) -> None:
    _lose(now, with_tasks=True)


def _lose(now: Round, with_tasks: bool) -> None:
    node = now.task().node
    now.cluster.kill_slurmd(node, with_tasks)
    time.sleep(now.chance.choice((1, 30)))  # Slurm may not even notice
    now.cluster.start_slurmd(node, wait_s=0)


def slurmctld_is_restarted(now: Round) -> None:
    now.cluster.daemons["slurmctld"].terminate()
    now.cluster.daemons["slurmctld"].wait(60)
    time.sleep(now.chance.uniform(0, 8))
    now.cluster.start_slurmctld()


def slurmdbd_is_away(now: Round) -> None:
    now.cluster.stop_slurmdbd()
    time.sleep(now.chance.uniform(2, 8))
    now.cluster.start_slurmdbd()


def the_store_is_read_only(now: Round) -> None:
    wait(lambda: now.remount("ro") or True, "the store is read-only")
    time.sleep(now.chance.uniform(3, 10))
    now.remount("rw")


def the_store_is_full(now: Round) -> None:
    fill(now.trial.store, now.chance.uniform(3, 10))


def a_block_is_truncated(now: Round) -> None:
    truncate(now.trial.store, now.trial.plan(), now.chance)


def who_goes_on_is_killed(now: Round) -> None:
    """An engine, begun again after a while; or the next reconcile job that is at work."""
    if now.job:
        now.doomed = True
        return
    at = now.chance.randrange(len(now.engines))
    process, over = now.engines[at]
    if process.poll() is None:
        process.kill()
        over()
        time.sleep(now.chance.uniform(0, 3))
        now.engines[at] = now.trial.start("run", "--checkpoint-seconds", "0.5")


def memory_is_short(now: Round) -> None:
    now.trial.says(gigabytes=2.2)  # for good: array tasks need more than the site's stage gives them


def a_block_never_ends(now: Round) -> None:
    """Until the time limit of its array task has come."""
    (now.trial.faults / "hang-100").touch()


def squeue_leaves_out_jobs(now: Round) -> None:
    _squeue(now, "omits")


def squeue_answers_from_a_cache(now: Round) -> None:
    _squeue(now, "lags")


def _squeue(now: Round, how: str) -> None:
    said = now.trial.faults / "squeue"
    said.write_text(how)
    time.sleep(now.chance.uniform(10, 40))
    said.unlink()


def the_account_has_a_limit(now: Round) -> None:
    limit(now.cluster, now.chance.randint(3, 8))
    time.sleep(now.chance.uniform(10, 30))
    limit(now.cluster, -1)


def new_files_are_hidden(now: Round) -> None:
    """For a few seconds each."""
    hiding = Hiding(Path(now.trial.store.root), now.trial.folder / "results" / "aside")
    hiding.start()
    time.sleep(now.chance.uniform(5, 15))
    hiding.ended.set()
    hiding.join(60)


def another_user_submits(now: Round) -> None:
    """And the next fault comes meanwhile."""
    assert now.colleague is not None
    now.colleague.begin("submit", "--checkpoint-seconds", "0.5")


def another_user_cancels(now: Round) -> None:
    assert now.colleague is not None
    now.colleague.begin("cancel")


FAULTS = (
    *(a_task_is_killed, an_array_task_is_requeued, a_node_is_wanted_by_others, a_daemon_of_a_node_dies),
    *(a_node_loses_its_power, slurmctld_is_restarted, slurmdbd_is_away, the_store_is_read_only, the_store_is_full),
    *(a_block_is_truncated, who_goes_on_is_killed, memory_is_short, a_block_never_ends),
    *(squeue_leaves_out_jobs, squeue_answers_from_a_cache, the_account_has_a_limit, new_files_are_hidden),
)
OF_ANOTHER_USER = (*3 * (another_user_submits,), *2 * (another_user_cancels,))


@dataclass(frozen=True)
class Lab:
    """Who the other user is, and what that user can read."""

    group: str
    account: Account
    shown: Shown


def round_of(folder: Path, made: Cluster, base: Ran, seed: int, lab: Lab) -> str:
    """Run one round. Returns what happened, in a line; raises what went wrong."""
    chance, began = random.Random(seed), time.monotonic()
    job, links, accounts = chance.random() < 0.5, chance.random() < 0.7, chance.random() < 0.7
    partition = chance.choice(("gpu", "grace20"))
    together, they_begin = chance.random() < 0.5, chance.random() < 0.5
    faults = FAULTS + (OF_ANOTHER_USER if together else ())
    order = chance.sample(faults, len(faults))
    with mounted(folder / "results", megabytes=96) as remount:
        changes = ("partition: gpu\ncpu_partition: cpu", f"partition: {partition}\ncpu_partition: calm", *SITE)
        changes += ("reconcile: manual", "reconcile: job") if job else ()
        trial = Trial(folder, made, base=base, trained=False, changes=changes, text=TEXT)
        if not links:
            trial.refuse_links()
        if not accounts:
            trial.env["PATH"] = made.without("sacct")["PATH"]
        trial.env |= wrapper(folder / "bin", trial.env["PATH"], squeue=SQUEUE.format(faults=trial.faults))
        trial.says(step=0.05, pace=6)
        now = Round(trial, chance, job, remount)
        if together:
            now.colleague = Colleague(lab.account, lab.group, trial, lab.shown)
            if they_begin:
                now.colleague.run("submit", "--checkpoint-seconds", "0.5")
        failed_already = (0, 1)  # 1: what cannot be made is known to have failed
        if job:
            trial.submit(codes=failed_already if together and they_begin else (0,))
        else:
            now.engines = [trial.start("run", "--checkpoint-seconds", "0.5") for _ in range(2)]
        missed = []
        for fault in order:
            time.sleep(chance.uniform(2, 8))
            try:
                fault(now)
            except TimeoutError:
                missed.append(fault.__name__)
        made.resume()
        trial.says(pace=0.2)
        if now.colleague is not None:
            now.colleague.end()
            if job:  # what was cancelled goes on only when somebody says so
                trial.submit(codes=failed_already)
        end = time.monotonic() + ROUND_S
        while not now.over():
            if trial.causes().count("timeout"):
                (trial.faults / "hang-100").unlink(missing_ok=True)
            if now.doomed and (reconciler := trial.reconciler()) is not None:
                reconciler.kill()
                now.doomed = False
            if time.monotonic() > end:
                raise TimeoutError(f"not over after {ROUND_S:.0f} s: {made.run('squeue', '-r').stdout}")
            time.sleep(1)
        ended = [over() for _, over in now.engines]
        try:
            wait(lambda: not trial.queue() and not now.theirs(), "nothing is left in the queue", 60)
            assert [each.returncode for each in ended] in ([], [1, 1])
            if now.colleague is not None:
                now.colleague.check()
            trial.done(arms=ARMS, code=1, damaged=None)
            trial.same(("small",), atol=1)
        except Exception:
            shutil.copytree(folder / "results", folder / "left")  # to be looked at
            ended += now.colleague.said if now.colleague is not None else []
            (folder / "left" / "engines.log").write_text("\n\n".join(each.stderr for each in ended))
            raise
        causes = Counter(trial.causes())
        assert causes["bad_input"] >= 1
        words = ", ".join(f"{cause} {number}" for cause, number in sorted(causes.items()))
        how = f"{'reconcile jobs' if job else 'two engines'}, {partition}"
        how += (
            f", with a second user who queued {len(now.colleague.waves())} waves" if now.colleague is not None else ""
        )
        how += f"{'' if links else ', no links'}{'' if accounts else ', no sacct'}"
        late = f"; nothing was at work for: {', '.join(missed)}" if missed else ""
        return f"good in {time.monotonic() - began:.0f} s ({how}); attempts: {words}{late}"


def ended(number: int, frame: Any) -> None:
    """A soak that is told to end takes its cluster with it."""
    sys.exit(128 + number)


def out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(rounds: int, seed: int) -> int:
    if reason := absent():
        out(reason)
        return 3
    signal.signal(signal.SIGTERM, ended)
    folder = Path(tempfile.mkdtemp(prefix="slurm-soak-"))
    out(f"{rounds} rounds, seed {seed}, in {folder}")
    bad = 0
    base = undisturbed(folder / "base", TEXT)
    folder.chmod(0o755)  # for the second user
    with accounts(1) as (group, (account,)), open_to_all(folder / "open") as shown:
        lab = Lab(group, account, shown)
        for number in range(rounds):
            with cluster(folder / f"c{number}", CLUSTER) as made:
                made.add_user(account.name)
                try:
                    said = round_of(folder / f"r{number}", made, base, seed + number, lab)
                    shutil.rmtree(folder / f"r{number}", ignore_errors=True)
                except Exception:  # noqa: BLE001  (the next round is to come all the same)
                    bad += 1
                    said = f"BAD\n{traceback.format_exc()}"
                out(f"round {number} (seed {seed + number}): {said}")
    out(f"{rounds - bad} of {rounds} rounds were good")
    return int(bad > 0)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(given[:1] or [ROUNDS]), *(given[1:2] or [int(time.time())])))
