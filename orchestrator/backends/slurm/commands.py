"""Slurm's commands, called and read. Only submitit talks to Slurm besides this file.

A call that fails, or is not answered in time, is a QueryFailed: it says nothing about any job.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from orchestrator.backends.slurm.slurm_output import (
    ACCOUNTS,
    QUEUE,
    Association,
    Job,
    Nodes,
    Partition,
    Run,
    parse_accounts,
    parse_associations,
    parse_config,
    parse_nodes,
    parse_partitions,
    parse_queue,
)
from orchestrator.errors import Passing
from orchestrator.execution.variables import variables

T = TypeVar("T")

TIMEOUT_S = 60.0
AT_ONCE = 500  # ids in one call of scancel or scontrol

# What a job of ours must not take from the job that submits it, and what would change the answers that we read.
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
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")
ANSWERS = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}  # epoch seconds; ids never cut off
NO_ACCOUNTS = ("accounting storage is disabled", "supported accounting_storage plugin")


class QueryFailed(Passing):
    """A command of Slurm failed; nothing is known about any job because of that."""


class Absent(QueryFailed):
    """There is no such command here, or the cluster keeps no accounts."""


class Commands:
    """Calls of Slurm's commands; `calls` counts them by name. environment: instead of this process's own."""

    def __init__(self, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.environment, self.timeout_s = environment, timeout_s
        self.calls: Counter[str] = Counter()
        self._config: dict[str, str] | None = None

    def queue(self) -> list[Job]:
        """Every job of this user that Slurm still knows, its elements one by one: those that are `over` too."""
        fields = ",".join(f"{name}:{size}|" for name, size in QUEUE.items())
        user = f"--user={os.getuid()}"
        options = ("--noheader", "--array", "--states=all", user, "--Format", fields)
        return self.read(parse_queue, "squeue", *options)

    def accounts(self, ids: Iterable[str], hours: float, steps: bool = False) -> list[Run]:
        """Each time that jobs (`7`: all elements of an array too) ran in the last hours, and their steps.

        Raises Absent where the cluster keeps no accounts. What is not in it may only not be in it yet.
        """
        wanted = ",".join(sorted(set(ids)))
        if not wanted:
            return []
        since = f"--starttime=now-{max(1, round(hours * 60))}minutes"
        options = ("--parsable2", "--noheader", "--duplicates", since, *([] if steps else ["--allocations"]))
        return self.read(parse_accounts, "sacct", *options, f"--format={','.join(ACCOUNTS)}", f"--jobs={wanted}")

    def config(self) -> dict[str, str]:
        """`scontrol show config`: MaxArraySize, MaxJobCount, PreemptMode, ... by name. Asked once."""
        if self._config is None:
            self._config = self.read(parse_config, "scontrol", "show", "config")
        return self._config

    def max_array(self) -> int:
        """How many elements an array may have."""
        return int(self.config()["MaxArraySize"])

    def partitions(self) -> dict[str, Partition]:
        return {
            found.name: found for found in parse_partitions(self.ask("scontrol", "--oneliner", "show", "partition"))
        }

    def nodes(self) -> list[Nodes]:
        return self.read(parse_nodes, "sinfo", "--noheader", "--exact", "--format=%R|%D|%T|%c|%m|%G|%f")

    def associations(self) -> list[Association]:
        """The accounts that this user may use, with their limits. Raises Absent where the cluster keeps none."""
        who, where = f"user={pwd.getpwuid(os.getuid()).pw_name}", f"cluster={self.config()['ClusterName']}"
        fields = "format=account,partition,qos,maxsubmit,maxjobs,maxwall"
        return self.read(parse_associations, "sacctmgr", "-nP", "show", "assoc", who, where, fields)

    def cancel(self, ids: Iterable[str]) -> None:
        """End jobs and elements; those that are over, or were never there, are left alone."""
        for part in _parts(sorted(set(ids))):
            self.ask("scancel", *part, harmless=("Invalid job id", "already completing or completed"))

    def requeue(self, ids: Iterable[str]) -> None:
        """Put jobs and elements back into the queue; those that wait there already are left alone.

        `7_0`, never an element's raw id: that of the last element is the array's, and means all of them.
        """
        for part in _parts(sorted(set(ids))):
            self.ask("scontrol", "requeue", ",".join(part), harmless=("pending execution",))

    def read(self, parse: Callable[[str], T], *command: str) -> T:
        """What a command says, read. Raises QueryFailed for what cannot be read too."""
        text = self.ask(*command)
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            raise QueryFailed(f"{command[0]} said something that cannot be read: {error}") from error

    def ask(self, *command: str, harmless: Sequence[str] = ()) -> str:
        """What a command says. Raises QueryFailed with its own words; a line with words of `harmless` is no error."""
        self.calls[command[0]] += 1
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
            raise Absent(f"{command[0]}: there is no such command here; is this a login node of the cluster?") from None
        except OSError as error:
            raise QueryFailed(f"{command[0]} cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise QueryFailed(f"{command[0]} did not answer in {self.timeout_s:g} s") from None
        said = [line for line in done.stderr.splitlines() if line.strip()]
        wrong = [line for line in said if not any(words in line for words in harmless)]
        if any(words in done.stderr.lower() for words in NO_ACCOUNTS):
            raise Absent(f"{command[0]}: this cluster keeps no accounts (accounting_storage/none)")
        silent = not done.stdout.strip() and any("error" in line.lower() for line in wrong)  # squeue may return 0 then
        if silent or (done.returncode and (wrong or not said)):
            words = "; ".join(wrong)[-500:] or f"it ended with {done.returncode}"
            raise QueryFailed(f"{command[0]} failed: {words}")
        return done.stdout


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what belongs to the job that this process is in; with the way to the cluster."""
    return {key: value for key, value in environment.items() if not key.startswith(SCRUBBED) or key in KEPT}


@contextlib.contextmanager
def scrubbed() -> Iterator[None]:
    """While it lasts this process's own environment is clean: for what submits by it (submitit)."""
    with variables(dict.fromkeys(set(os.environ) - clean_environment(os.environ).keys())):
        yield


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), AT_ONCE):
        yield ids[first : first + AT_ONCE]
