"""Why jobs wait: Slurm's reasons, and what to do about those that do not end by themselves. Pure functions."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable

from orchestrator.backends.slurm.slurm_output import SqueueRow

# Pattern of the reason -> key of the site file, and what to do. {stage}: the stage of the array task.
ADVICE = (
    (r"Partition(Down|Inactive)", "partition", "it is closed: name another one in the site file, or ask the site"),
    (r"ReqNodeNotAvail", "partition", "its nodes are down, drained or reserved: see `sinfo -R`, or name other nodes"),
    (r"PartitionTimeLimit|\w*MaxWall\w*", "stages.{stage}.minutes", "lower it to what the site allows"),
    (r"PartitionNodeLimit|\w*MaxNode\w*Per(Job|User)?\w*", "stages.{stage}.nodes", "lower it to what the site allows"),
    (r"(QOS|Assoc)MaxCpu\w*Per(Job|Node)\w*", "stages.{stage}.cpus", "lower it to what the site allows"),
    (r"(QOS|Assoc)MaxMem\w*Per(Job|Node)\w*", "stages.{stage}.memory_gb", "lower it to what the site allows"),
    (r"(QOS|Assoc)Max(GRES|Gres)\w*Per(Job|Node)\w*", "stages.{stage}.gpus", "lower it to what the site allows"),
    (r"InvalidQOS|QOSNotAllowed", "qos", "name one that `sacctmgr show assoc` lists for you"),
    (r"InvalidAccount|AccountNotAllowed", "account", "name one that `sacctmgr show assoc` lists for you"),
    (r"BadConstraints", "constraint", "no node has what is asked: see constraint, gres and stages.{stage}"),
    (r"PartitionConfig", "partition", "no node of it has what stages.{stage} asks"),
    (r"JobHeldAdmin", "", "an administrator holds it: ask the site"),
    (r"JobHeldUser|(?i:.*requeued?[ _](in[ _])?held\w*)", "", "it is held: `scontrol release {job}` lets it go"),
    (r"DependencyNeverSatisfied", "", "`nagbench cancel`, then `nagbench submit`"),
)


def advice(reason: str, stage: str, job: str) -> str:
    """What to do about a reason for which a job waits; "" if it ends by itself."""
    for pattern, key, words in ADVICE:
        if re.match(rf"({pattern})\b", reason):
            return (f"{key}: {words}" if key else words).format(stage=stage, job=job)
    return ""


def waiting_lines(rows: Iterable[tuple[str, SqueueRow]]) -> list[str]:
    """Why array tasks wait, with the earliest start that Slurm expects. rows: kind of task, and its row of squeue."""
    groups: dict[tuple[str, str], list[SqueueRow]] = defaultdict(list)
    for kind, row in rows:
        if row.state in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT"):
            groups[kind, row.reason].append(row)
    lines = []
    for (kind, reason), alike in groups.items():
        starts = [row.start for row in alike if row.start]
        when = time.strftime(", expected to start %Y-%m-%d %H:%M", time.localtime(min(starts))) if starts else ""
        fix = advice(reason, kind, alike[0].id.partition("_")[0])
        lines.append(f"{kind}: {len(alike):,} wait: {reason or 'no reason yet'}{when}{f'; {fix}' if fix else ''}")
    return lines
