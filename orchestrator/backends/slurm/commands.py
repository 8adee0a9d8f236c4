"""Call Slurm's commands and parse what they print. Only submitit talks to Slurm besides this file.

A call that fails or times out raises QueryFailed, which says nothing about any job.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from orchestrator.backends.slurm.reasons import advice
from orchestrator.backends.slurm.slurm_output import (
    ACCOUNTS,
    QUEUE,
    USAGE,
    Association,
    Nodes,
    Partition,
    SacctRow,
    SqueueRow,
    UsageRow,
    parse_accounts,
    parse_associations,
    parse_config,
    parse_jobs,
    parse_limits,
    parse_nodes,
    parse_partitions,
    parse_queue,
    parse_usage,
)
from orchestrator.errors import TransientError
from orchestrator.execution.variables import variables

T = TypeVar("T")

TIMEOUT_S = 60.0
AT_ONCE = 500  # ids in one call of scancel or scontrol

# Variables that a job must not inherit from the job that submits it, or that change the output that we parse.
SCRUBBED = (
    "SLURM",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT",
    "SINFO_",
    "SCANCEL_",
    "SCONTROL_",
    "SUBMITIT_",
    "PMI",
)
# Of those, the ones that only change what commands print: a job gets them as its user set them.
FORMATS = ("SQUEUE_FORMAT", "SQUEUE_SORT", "SACCT_FORMAT", "SINFO_FORMAT", "SINFO_SORT", "SLURM_TIME_FORMAT")
WITH_CLUSTERS = ("squeue", "sacct", "scancel", "sinfo")  # take several; scontrol takes one
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")
ANSWERS = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}  # epoch seconds; ids in full
NO_SUCH_JOB = "Invalid job id"
NO_ACCOUNTS = ("accounting storage is disabled", "supported accounting_storage plugin")


class QueryFailed(TransientError):
    """A Slurm command failed; that says nothing about any job."""


class Unsupported(QueryFailed):
    """The command is not installed here, or the cluster keeps no accounts."""


class Commands:
    """Slurm's commands. calls: counts them by name. environment: instead of this process's own. clusters: those to ask,
    with commas, instead of this machine's own.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S, clusters: str | None = None
    ) -> None:
        self.environment, self.timeout_s, self.clusters = environment, timeout_s, clusters or ""
        self.calls: Counter[str] = Counter()
        self._config: dict[str, str] | None = None

    def queue(self, ids: Iterable[str] = (), everyone: bool = False) -> list[SqueueRow]:
        """Every job of this user that Slurm still knows, each array task in a row; also those that are `over`. ids: of
        these jobs instead, whose ever they are. everyone: of all users.
        """
        fields = ",".join(f"{name}:{size}|" for name, size in QUEUE.items())
        options = ("--noheader", "--array", "--states=all", "--Format", fields)
        rows: list[SqueueRow] = []
        for part in _parts(sorted(set(ids))):
            rows += self.read(parse_queue, "squeue", *options, f"--jobs={','.join(part)}", harmless=(NO_SUCH_JOB,))
        if not rows and not ids:
            rows = self.read(parse_queue, "squeue", *options, *(() if everyone else (f"--user={os.getuid()}",)))
        return rows if "," not in self.clusters else _one_each(rows)

    def accounts(self, ids: Iterable[str], hours: float, steps: bool = False) -> list[SacctRow]:
        """Every run of these jobs (`7`: and of all its array tasks) in the last `hours`. steps: with their steps.

        A run may appear late. Raises Unsupported if the cluster keeps no accounts.
        """
        wanted = ",".join(sorted(set(ids)))
        if not wanted:
            return []
        since = f"--starttime=now-{max(1, round(hours * 60))}minutes"
        options = ("--parsable2", "--duplicates", "--allusers", since, *([] if steps else ["--allocations"]))
        return self.read(parse_accounts, "sacct", *options, f"--format={','.join(ACCOUNTS)}", f"--jobs={wanted}")

    def usage(self, ids: Iterable[str], hours: float) -> list[UsageRow]:
        """What these jobs, and their steps, used. Raises Unsupported if the cluster keeps no accounts."""
        wanted = ",".join(sorted(set(ids)))
        since = f"--starttime=now-{max(1, round(hours * 60))}minutes"
        options = ("--parsable2", "--duplicates", since, f"--format={','.join(USAGE)}", f"--jobs={wanted}")
        return self.read(parse_usage, "sacct", *options) if wanted else []

    def config(self) -> dict[str, str]:
        """`scontrol show config`: MaxArraySize, MaxJobCount, PreemptMode, ... by name. Called once."""
        if self._config is None:
            self._config = self.read(parse_config, *self._scontrol(), "show", "config")
        return self._config

    def cluster(self) -> str:
        """The cluster's name; "" if slurmctld does not answer."""
        with contextlib.suppress(QueryFailed):
            return self.config().get("ClusterName", "")
        return ""

    def hides_others(self) -> bool:
        """Whether users see only their own jobs here, or slurmctld does not say."""
        with contextlib.suppress(QueryFailed):
            return "jobs" in self.config().get("PrivateData", "").split(",")
        return True

    def max_array(self) -> int:
        """How many array tasks an array may have."""
        return int(self.config()["MaxArraySize"])

    def partitions(self) -> dict[str, Partition]:
        partitions = self.read(parse_partitions, *self._scontrol(), "--oneliner", "show", "partition")
        return {partition.name: partition for partition in partitions}

    def nodes(self) -> list[Nodes]:
        return self.read(parse_nodes, "sinfo", "--exact", "--format=%R|%D|%T|%c|%m|%G|%f")

    def associations(self) -> list[Association]:
        """The accounts that this user may use, with their limits. Raises Unsupported if the cluster keeps none, or this
        user has no name (a uid that is in no passwd file, as in some containers).
        """
        try:
            who = f"user={pwd.getpwuid(os.getuid()).pw_name}"
        except KeyError:
            raise Unsupported(f"sacctmgr: user {os.getuid()} has no name on this machine") from None
        where = f"cluster={self.config()['ClusterName']}"
        fields = "format=account,partition,qos,maxsubmit,maxjobs,maxwall"
        return self.read(parse_associations, "sacctmgr", "-P", "show", "assoc", who, where, fields)

    def submit_limits(self) -> dict[str, int]:
        """By QoS, how many jobs and array tasks a user may have in the queue, where there is a limit."""
        return self.read(parse_limits, "sacctmgr", "-P", "show", "qos", "format=name,maxsubmitjobsperuser")

    def jobs_of_all(self) -> int:
        """How many jobs and array tasks of all users are in the queue."""
        lines = self.ask("squeue", "--noheader", "--array", "--all", "--format=%i").splitlines()
        return sum(line[:1].isdigit() for line in lines)

    def known(self, job: str) -> dict[str, str] | None:
        """The states of a job's array tasks, by id, as slurmctld itself tells them: empty if it does not know the job;
        None if it does not answer.
        """
        states: dict[str, str] = {}
        for cluster in self.clusters.split(","):
            try:
                states |= self.read(parse_jobs, *self._scontrol(cluster), "--oneliner", "show", "job", job)
            except QueryFailed as error:
                if NO_SUCH_JOB not in str(error):
                    return None
        return states

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs and array tasks. Those that have ended or never existed are not an error."""
        for part in _parts(sorted(set(ids))):
            self.ask("scancel", *part, harmless=(NO_SUCH_JOB, "already completing or completed"))

    def requeue(self, ids: Iterable[str]) -> None:
        """Requeue jobs and array tasks. Those that are already pending are not an error.

        ids: of the form `7_0`, not raw job ids: that of the last array task is the array's own, and means all of them.
        """
        others = (NO_SUCH_JOB,) if "," in self.clusters else ()
        for part in _parts(sorted(set(ids))):
            for cluster in self.clusters.split(","):
                command = (*self._scontrol(cluster), "requeue", ",".join(part))
                self.ask(*command, harmless=("pending execution", *others))

    def _scontrol(self, cluster: str = "") -> tuple[str, ...]:
        """scontrol of a cluster; by default of the first."""
        cluster = cluster or self.clusters.partition(",")[0]
        return ("scontrol", f"--clusters={cluster}") if cluster else ("scontrol",)

    def read(self, parse: Callable[[str], T], *command: str, harmless: Sequence[str] = ()) -> T:
        """Call a command and parse what it prints. Raises QueryFailed if either fails, except as in `ask`."""
        text = self.ask(*command, harmless=harmless)
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            raise QueryFailed(f"the output of {command[0]} cannot be parsed: {error}") from error

    def ask(self, *command: str, harmless: Sequence[str] = ()) -> str:
        """Return what a command prints. Raises QueryFailed with its error message, unless that is in `harmless`."""
        self.calls[command[0]] += 1
        if self.clusters and command[0] in WITH_CLUSTERS:
            command = (command[0], f"--clusters={self.clusters}", *command[1:])
        environment = clean_environment(os.environ if self.environment is None else self.environment) | ANSWERS
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise Unsupported(
                f"{command[0]}: there is no such command here; is this a login node of the cluster?"
            ) from None
        except OSError as error:
            raise QueryFailed(f"{command[0]} cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise QueryFailed(f"{command[0]} did not answer in {self.timeout_s:g} s") from None
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if not any(words in line for words in harmless)]
        if any(words in done.stderr.lower() for words in NO_ACCOUNTS):
            raise Unsupported(f"{command[0]}: this cluster keeps no accounts (accounting_storage/none)")
        silent = not done.stdout.strip() and any("error" in line.lower() for line in errors)  # squeue may return 0
        if silent or (done.returncode and (errors or not lines)):
            printed = "; ".join(errors) or " ".join(done.stdout.split()) or "it printed nothing"
            code = "" if errors else f"exit code {done.returncode}, "
            raise QueryFailed(f"{command[0]} failed: {code}{printed[-500:]}")
        return done.stdout


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of the Slurm job that this process is in. Those of the cluster stay."""
    return {key: value for key, value in environment.items() if not key.startswith(SCRUBBED) or key in KEPT}


@contextlib.contextmanager
def scrubbed() -> Iterator[None]:
    """Clean this process's own environment for a while, because submitit submits with it."""
    with variables(dict.fromkeys(set(os.environ) - clean_environment(os.environ).keys() - {*FORMATS})):
        yield


def _one_each(rows: Iterable[SqueueRow]) -> list[SqueueRow]:
    """A federation shows a job that waits on each cluster that may start it: the row of the one that can counts."""
    found: dict[str, SqueueRow] = {}
    for row in rows:
        known = found.get(row.id)
        waits = known is not None and known.state == "PENDING"
        if known is None or (waits and (row.state != "PENDING" or advice(known.reason, "", ""))):
            found[row.id] = row
    return list(found.values())


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), AT_ONCE):
        yield ids[first : first + AT_ONCE]
