"""Parse what Slurm's commands print. Pure functions.

An id is `7`, or `7_0` for an array task; times are seconds since 1970.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

ARRAY_TASKS_AT_MOST = 5_000_000  # MaxArraySize is at most 4,000,001

OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"),
        *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    }
)  # a job in any other state, known or not, may still run
REVOKED = "REVOKED"  # another cluster of the federation took the job: it is no end, and that cluster tells how it is

# Reasons why a pending job will never start unless somebody acts. (JobHeldUser is not one: a user wants it.)
NEVER = frozenset(
    {
        *("AccountNotAllowed", "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS"),
        *(
            "JobHeldAdmin",
            "PartitionConfig",
            "PartitionInactive",
            "PartitionNodeLimit",
            "PartitionTimeLimit",
            "QOSNotAllowed",
        ),
        *("launch failed requeued held", "launch_failed_requeued_held"),
    }
)
HELD = ("REQUEUE_HOLD", "SPECIAL_EXIT")  # states of a job that was requeued and is held
REQUEUED_HELD = re.compile(r"(?i)requeued?[ _]in[ _]held")  # the reason of the same
OVER_LIMIT = re.compile(r"(QOS|Assoc)Max\w+Per(Job|Node)(Limit)?$")  # it requests more than one job may have

# Each with a width: without one, some versions cut a field after 20 characters.
QUEUE = {
    "JobArrayID": 60,
    "State": 30,
    "RestartCnt": 10,
    "exit_code": 12,
    "SubmitTime": 24,
    "StartTime": 24,
    "EndTime": 24,
    "NodeList": 240,
    "Reason": 120,
    "Name": 240,
    "Comment": 240,
}
OURS = re.compile(r"\|(nb\.[\w.-]+) *\|? *$")  # a comment that is the name which nagbench gave to a job
ACCOUNTS = (
    "JobID",
    "State",
    "ExitCode",
    "DerivedExitCode",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "NodeList",
    "MaxRSS",
)


@dataclass(frozen=True)
class SqueueRow:
    """A line of squeue: a job or array task that is pending, runs, or ended less than MinJobAge ago."""

    id: str
    state: str
    restarts: int
    exit_code: int
    signal: int
    submitted: float | None
    start: float | None
    end: float | None  # while it runs: when its time limit comes
    nodes: str
    reason: str
    name: str  # that nagbench gave it, though the site may have renamed it

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def stuck(self) -> bool:
        """Whether it will never start by itself; `reason` says why."""
        if self.state in HELD:
            return True
        never = self.reason in NEVER or OVER_LIMIT.match(self.reason) or REQUEUED_HELD.search(self.reason)
        return self.state == "PENDING" and bool(never)


@dataclass(frozen=True)
class SacctRow:
    """A line of sacct: one run of a job or an array task, or a step of that run."""

    id: str
    step: str  # "" for the job itself, else "batch", "0", ...
    state: str
    exit_code: int
    signal: int
    submitted: float | None
    start: float | None
    end: float | None
    elapsed_s: float
    nodes: str
    memory_gb: float | None  # peak of one process of a step

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True)
class Partition:
    name: str
    default: bool
    up: bool
    max_minutes: float | None
    nodes: int
    preempt_mode: str
    grace_s: int
    accounts: tuple[str, ...] | None  # None: any
    qos: tuple[str, ...] | None


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition. gpus: how many on each, by type ("" if the cluster names none)."""

    partition: str
    count: int
    state: str
    cpus: int
    memory_gb: float
    gpus: Mapping[str, int]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Association:
    """What this user may do under an account."""

    account: str
    partition: str
    qos: tuple[str, ...]
    max_submit: int | None
    max_jobs: int | None
    max_minutes: float | None


def expand_ids(job: str) -> list[str]:
    """The ids that an id stands for: `7_[1,3-5%2]` is 7_1, 7_3, 7_4 and 7_5. Raises ValueError for an invalid id."""
    match = re.fullmatch(r"(\d+(?:\+\d+)?)(?:_(?:(\d+)|\[([\d,:-]+?)(?:,?\.\.\.)?(?:%\d+)?\]))?", job)
    if match is None:
        raise ValueError(f"not a valid job id: {job!r}")
    number, index, several = match.groups()
    if several is None:
        return [number if index is None else f"{number}_{index}"]
    indices: list[int] = []
    for part in several.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if bounds is None:
            raise ValueError(f"not a valid job id: {job!r}")
        chosen = range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1, int(bounds[3] or 1))
        if len(chosen) + len(indices) > ARRAY_TASKS_AT_MOST:
            raise ValueError(f"too many array tasks: {job!r}")
        indices += chosen
    return [f"{number}_{each}" for each in indices]


def state_of(words: str) -> str:
    """`CANCELLED by 1000` and `CANCELLED+` are CANCELLED."""
    return words.split()[0].rstrip("+") if words.strip() else "UNKNOWN"


def time_of(words: str) -> float | None:
    return float(words) if words.isdigit() and int(words) > 0 else None


def minutes_of(words: str) -> float | None:
    """A time limit in Slurm's spelling: `1-00:00:00`, `30:00`, `5`; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", words)
    if match is None:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return int(days) * 1440 + hours * 60 + minutes + seconds / 60
    if len(numbers) == 3:
        return numbers[0] * 60 + numbers[1] + numbers[2] / 60
    return numbers[0] + (numbers[1] / 60 if len(numbers) == 2 else 0)


def parse_queue(text: str) -> list[SqueueRow]:
    jobs = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", len(QUEUE) - 2)]
        if len(fields) < len(QUEUE) - 1 or not fields[0][:1].isdigit():
            continue  # the rest of a job name with a line break, or what the site prints around the answer
        values = dict(zip(QUEUE, fields, strict=False))
        if state_of(values["State"]) == REVOKED:
            continue
        given, named = OURS.search(values["Name"]), values["Name"].removesuffix("|").rpartition("|")[0]
        status = int(values["exit_code"] or 0)
        code, signal = status >> 8, status & 127
        job = SqueueRow(
            id="",
            state=state_of(values["State"]),
            restarts=int(values["RestartCnt"] or 0),
            exit_code=code,
            signal=signal or (code - 128 if code > 128 else 0),  # a shell exits with 128 + the signal of its command
            submitted=time_of(values["SubmitTime"]),
            start=time_of(values["StartTime"]),
            end=time_of(values["EndTime"]),
            nodes=values["NodeList"],
            reason=values["Reason"],
            name=given[1] if given else named.strip(),
        )
        jobs += [replace(job, id=each) for each in expand_ids(values["JobArrayID"])]
    return jobs


def table(text: str, columns: int, first: str) -> list[list[str]]:
    """The rows of a table whose header begins with `first`. What a site prints around the table is left out. Raises
    ValueError without a header, so that an answer that is none is not taken for an empty one.
    """
    rows = [line.split("|") for line in text.splitlines()]
    starts = [number for number, row in enumerate(rows) if row[0].upper() == first.upper() and len(row) == columns]
    if not starts:
        raise ValueError(f"no header {first!r} in {text[:200]!r}")
    return [row for row in rows[starts[0] + 1 :] if len(row) == columns and row[0].upper() != first.upper()]


def parse_accounts(text: str) -> list[SacctRow]:
    runs = []
    for fields in table(text, len(ACCOUNTS), ACCOUNTS[0]):
        values = dict(zip(ACCOUNTS, fields, strict=True))
        if state_of(values["State"]) == REVOKED:
            continue
        job, _, step = values["JobID"].partition(".")
        code, _, signal = values["ExitCode"].partition(":")
        of_a_step = values["DerivedExitCode"].partition(":")[2]
        run = SacctRow(
            id="",
            step=step,
            state=state_of(values["State"]),
            exit_code=int(code or 0),
            signal=int(signal or 0) or int(of_a_step or 0),
            submitted=time_of(values["Submit"]),
            start=time_of(values["Start"]),
            end=time_of(values["End"]),
            elapsed_s=float(values["ElapsedRaw"] or 0),
            nodes="" if values["NodeList"] == "None assigned" else values["NodeList"],
            memory_gb=_gigabytes(values["MaxRSS"]),
        )
        runs += [replace(run, id=each) for each in expand_ids(job)]
    return runs


def _gigabytes(words: str) -> float | None:
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", words)
    return float(match[1]) * 1024.0 ** " KMGT".index(match[2] or " ") / 1024**3 if match else None


def parse_config(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def parse_partitions(text: str) -> list[Partition]:
    partitions = []
    for line in text.splitlines():
        values = {name: value for name, _, value in (word.partition("=") for word in line.split())}
        if "PartitionName" not in values:
            continue
        partition = Partition(
            name=values["PartitionName"],
            default=values.get("Default") == "YES",
            up=values.get("State") == "UP",
            max_minutes=minutes_of(values.get("MaxTime", "")),
            nodes=int(values.get("TotalNodes", 0)),
            preempt_mode=values.get("PreemptMode", ""),
            grace_s=int(values.get("GraceTime", 0)),
            accounts=_names(values.get("AllowAccounts", "ALL")),
            qos=_names(values.get("AllowQos", "ALL")),
        )
        partitions.append(partition)
    return partitions


def _names(words: str) -> tuple[str, ...] | None:
    return None if words in ("ALL", "") else tuple(words.split(","))


def parse_nodes(text: str) -> list[Nodes]:
    nodes = []
    for partition, count, state, cpus, memory, gres, features in table(text, 7, "PARTITION"):
        nodes.append(
            Nodes(
                partition=partition,
                count=int(count),
                state=state.rstrip("*~#!%$@^-+"),
                cpus=int(cpus.rstrip("+")),
                memory_gb=int(memory.rstrip("+")) / 1024,
                gpus=gpus_of(gres),
                features=() if features == "(null)" else tuple(features.split(",")),
            )
        )
    return nodes


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs by type of `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    gpus: Counter[str] = Counter()
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = part.split(":")
        if name == "gpu":
            number = rest.pop() if rest and rest[-1].isdigit() else "1"
            gpus[":".join(rest)] += int(number)
    return dict(gpus)


def parse_associations(text: str) -> list[Association]:
    associations = []
    for account, partition, qos, submit, jobs, wall in table(text, 6, "Account"):
        allowed = tuple(name for name in qos.split(",") if name)
        associations.append(Association(account, partition, allowed, _limit(submit), _limit(jobs), minutes_of(wall)))
    return associations


def parse_limits(text: str) -> dict[str, int]:
    return {name: int(limit) for name, limit in table(text, 2, "Name") if limit.isdigit()}


def parse_jobs(text: str) -> dict[str, str]:
    """`scontrol --oneliner show job`: the states of jobs and array tasks, by id."""
    states: dict[str, str] = {}
    for line in text.splitlines():
        values = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if not line.startswith("JobId=") or values["JobState"] == REVOKED:
            continue
        array, index = values.get("ArrayJobId"), values.get("ArrayTaskId", "")
        job = f"{array}_[{index}]" if array and index else values["JobId"]
        states |= dict.fromkeys(expand_ids(job), state_of(values["JobState"]))
    return states


def _limit(words: str) -> int | None:
    return int(words) if words.isdigit() else None


USAGE = ("JobID", "ElapsedRaw", "TotalCPU", "MaxRSS", "TRESUsageInAve")


@dataclass(frozen=True)
class UsageRow:
    """What a job, an array task or one of its steps used. gpu_busy: 0 to 1, where the site measures it."""

    id: str
    elapsed_s: float
    cpu_s: float
    memory_gb: float | None
    gpu_busy: float | None


def parse_usage(text: str) -> list[UsageRow]:
    rows = []
    for fields in table(text, len(USAGE), USAGE[0]):
        values = dict(zip(USAGE, fields, strict=True))
        busy = re.search(r"gres/gpuutil=(\d+)", values["TRESUsageInAve"])
        row = UsageRow(
            id="",
            elapsed_s=float(values["ElapsedRaw"] or 0),
            cpu_s=_cpu_seconds(values["TotalCPU"]),
            memory_gb=_gigabytes(values["MaxRSS"]),
            gpu_busy=int(busy[1]) / 100 if busy else None,
        )
        rows += [replace(row, id=each) for each in expand_ids(values["JobID"].partition(".")[0])]
    return rows


def _cpu_seconds(words: str) -> float:
    """`1-02:03:04`, `02:03:04` or `03:04.567` in seconds."""
    days, _, rest = words.rpartition("-")
    total = 0.0
    for part in rest.split(":") if rest else ():
        total = total * 60 + float(part)
    return total + 86_400 * float(days or 0)
