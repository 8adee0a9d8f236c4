"""Two clusters on which scenarios run side by side, and the undisturbed run to compare with."""

from __future__ import annotations

import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.orchestrator.conftest import Ran
from tests.slurm.cluster import Cluster
from tests.slurm.configuration import Settings
from tests.slurm.faults import SWEEP, Trial

# Partitions of nodes of their own, so that scenarios do not meet.
PARTITIONS = """\
PartitionName=calm Nodes=n[1-3] State=UP PreemptMode=OFF
PartitionName=weak Nodes=n[4-8] State=UP PreemptMode=OFF
PartitionName=grace0 Nodes=n9 State=UP PreemptMode=REQUEUE GraceTime=0
PartitionName=grace20 Nodes=n10 State=UP PreemptMode=REQUEUE GraceTime=20
"""
WARNING = Settings(nodes=10, preempt=True, user_signal=True, enforce_memory=True, extra=PARTITIONS)
SILENT = Settings(nodes=10, preempt=True, user_signal=False, accounting=False, extra=PARTITIONS)


def by_time(attempt: dict[str, Any]) -> float:
    return float(attempt["time"])


@dataclass
class Lab:
    """Two clusters, the truth, and the scenarios that are under way."""

    folder: Path
    warning: Cluster  # a preemption is announced by a signal
    silent: Cluster  # it is not, and there is no accounting
    base: Ran
    pool: ThreadPoolExecutor
    under_way: dict[str, Future[None]] = field(default_factory=dict)

    def trial(
        self,
        name: str,
        *changes: str,
        cluster: Cluster | None = None,
        partition: str = "calm",
        text: str = SWEEP,
        trained: bool = True,
        setup: tuple[str, ...] = (),
    ) -> Trial:
        places = ("partition: gpu\ncpu_partition: cpu", f"partition: {partition}\ncpu_partition: calm")
        on = cluster or self.warning
        return Trial(
            self.folder / name, on, base=self.base, trained=trained, changes=(*places, *changes), text=text, setup=setup
        )


def by_hand(trial: Trial, attempt: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", attempt["again"]]
    return subprocess.run(command, env=trial.env, capture_output=True, text=True, timeout=120, check=False)
