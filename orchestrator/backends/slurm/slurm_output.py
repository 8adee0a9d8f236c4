"""What Slurm's commands print, read: pure functions, and what they make.

An id is `7`, or `7_0` for an array task of an array; times are seconds since 1970.
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
        *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)  # any other state, known or not, is one of a job that may still run

# Why a job that waits will never start, unless a person does something. (JobHeldUser is the wish of a person.)
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
OVER_LIMIT = re.compile(r"(QOS|Assoc)Max\w+Per(SqueueRow|Node)(Limit)?$")  # it asks for more than one job may have

# Sizes, because without one some versions cut a field after 20 characters.
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
}
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
    end: float | None  # of one that runs: when its time is up
    nodes: str
    reason: str
    name: str

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def stuck(self) -> bool:
        """Whether it waits for what will not come by itself; `reason` says what."""
        return self.state == "PENDING" and (self.reason in NEVER or OVER_LIMIT.match(self.reason) is not None)


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
    memory_gb: float | None  # the most that one process of a step used

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
    """Equal nodes of a partition. `gpus`: how many on each, by type ("" where the site names none)."""

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


def expand(job: str) -> list[str]:
    """The ids that an id stands for: `7_[1,3-5%2]` is 7_1, 7_3, 7_4 and 7_5. Raises ValueError for what is no id."""
    found = re.fullmatch(r"(\d+(?:\+\d+)?)(?:_(?:(\d+)|\[([\d,:-]+?)(?:,?\.\.\.)?(?:%\d+)?\]))?", job)
    if found is None:
        raise ValueError(f"no id of a job: {job!r}")
    number, index, several = found.groups()
    if several is None:
        return [number if index is None else f"{number}_{index}"]
    indices: list[int] = []
    for part in several.split(","):
        one = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if one is None:
            raise ValueError(f"no id of a job: {job!r}")
        chosen = range(int(one[1]), int(one[2] or one[1]) + 1, int(one[3] or 1))
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
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", words)
    if found is None:
        return None
    days, *parts = found.groups()
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
        fields = [field.strip() for field in line.split("|", len(QUEUE) - 1)]
        if len(fields) < len(QUEUE):
            continue  # the rest of somebody's job name with a line break in it
        found = dict(zip(QUEUE, fields, strict=True))
        status = int(found["exit_code"] or 0)
        code, signal = status >> 8, status & 127
        job = SqueueRow(
            id="",
            state=state_of(found["State"]),
            restarts=int(found["RestartCnt"] or 0),
            exit_code=code,
            signal=signal or (code - 128 if code > 128 else 0),  # as a shell says how its command was ended
            submitted=time_of(found["SubmitTime"]),
            start=time_of(found["StartTime"]),
            end=time_of(found["EndTime"]),
            nodes=found["NodeList"],
            reason=found["Reason"],
            name=found["Name"].removesuffix("|").strip(),
        )
        jobs += [replace(job, id=each) for each in expand(found["JobArrayID"])]
    return jobs


def parse_accounts(text: str) -> list[SacctRow]:
    runs = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != len(ACCOUNTS):
            raise ValueError(f"no line of sacct: {line[:200]!r}")
        found = dict(zip(ACCOUNTS, fields, strict=True))
        job, _, step = found["JobID"].partition(".")
        code, _, signal = found["ExitCode"].partition(":")
        of_a_step = found["DerivedExitCode"].partition(":")[2]
        run = SacctRow(
            id="",
            step=step,
            state=state_of(found["State"]),
            exit_code=int(code or 0),
            signal=int(signal or 0) or int(of_a_step or 0),
            submitted=time_of(found["Submit"]),
            start=time_of(found["Start"]),
            end=time_of(found["End"]),
            elapsed_s=float(found["ElapsedRaw"] or 0),
            nodes="" if found["NodeList"] == "None assigned" else found["NodeList"],
            memory_gb=_gigabytes(found["MaxRSS"]),
        )
        runs += [replace(run, id=each) for each in expand(job)]
    return runs


def _gigabytes(words: str) -> float | None:
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", words)
    return float(found[1]) * 1024.0 ** " KMGT".index(found[2] or " ") / 1024**3 if found else None


def parse_config(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def parse_partitions(text: str) -> list[Partition]:
    partitions = []
    for line in text.splitlines():
        found = {name: value for name, _, value in (word.partition("=") for word in line.split())}
        if "PartitionName" not in found:
            continue
        partition = Partition(
            name=found["PartitionName"],
            default=found.get("Default") == "YES",
            up=found.get("State") == "UP",
            max_minutes=minutes_of(found.get("MaxTime", "")),
            nodes=int(found.get("TotalNodes", 0)),
            preempt_mode=found.get("PreemptMode", ""),
            grace_s=int(found.get("GraceTime", 0)),
            accounts=_names(found.get("AllowAccounts", "ALL")),
            qos=_names(found.get("AllowQos", "ALL")),
        )
        partitions.append(partition)
    return partitions


def _names(words: str) -> tuple[str, ...] | None:
    return None if words in ("ALL", "") else tuple(words.split(","))


def parse_nodes(text: str) -> list[Nodes]:
    found = []
    for line in text.splitlines():
        partition, count, state, cpus, memory, gres, features = line.split("|")
        found.append(
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
    return found


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs by type of `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    found: Counter[str] = Counter()
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = part.split(":")
        if name == "gpu":
            number = rest.pop() if rest and rest[-1].isdigit() else "1"
            found[":".join(rest)] += int(number)
    return dict(found)


def parse_associations(text: str) -> list[Association]:
    found = []
    for line in text.splitlines():
        account, partition, qos, submit, jobs, wall = line.split("|")
        allowed = tuple(name for name in qos.split(",") if name)
        found.append(Association(account, partition, allowed, _limit(submit), _limit(jobs), minutes_of(wall)))
    return found


def _limit(words: str) -> int | None:
    return int(words) if words.isdigit() else None
