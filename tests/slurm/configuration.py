"""The files of the tests' own Slurm cluster: slurm.conf and its neighbours."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GPUS = ("/dev/zero", "/dev/null", "/dev/full", "/dev/random")  # device files stand for GPUs


@dataclass(frozen=True)
class Settings:
    """What the cluster is. `preempt`: a partition `urgent` of higher priority takes the nodes of `gpu`, requeueing."""

    nodes: int = 2
    cpus: int = 4
    gpus: int = 2
    memory_mb: int = 64_000  # a claim: nothing is held back for a job
    accounting: bool = True
    preempt: bool = False
    grace_s: int = 0  # between the signal of a preemption and the end
    user_signal: bool = False  # SlurmctldParameters=preempt_send_user_signal
    max_array_size: int = 1001
    max_submit: int | None = None  # jobs that root may have in the queue; needs accounting
    min_job_age_s: int = 300
    kill_wait_s: int = 5
    slurmd_timeout_s: int = 10
    enforce_memory: bool = False  # a job that takes more than it asked for is ended, looked at every second
    extra: str = ""  # more lines of slurm.conf

    @property
    def names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self.nodes)]


@dataclass(frozen=True)
class Ports:
    munge: Path  # the socket of munged
    slurmctld: int
    slurmdbd: int
    database: int
    nodes: tuple[int, ...]


def write(folder: Path, settings: Settings, ports: Ports) -> None:
    for name in ("state", *(f"spool.{node}" for node in settings.names)):
        (folder / name).mkdir()
    if ports.munge.parent == folder:
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
    devices = ",".join(GPUS[: settings.gpus])
    (folder / "gres.conf").write_text(f"NodeName=n[1-{settings.nodes}] Name=gpu File={devices}\n")
    (folder / "cgroup.conf").write_text("ConstrainCores=no\nConstrainRAMSpace=no\n")
    lines = [*_controller(folder, settings, ports), *_accounts(settings, ports), *_nodes(settings, ports)]
    (folder / "slurm.conf").write_text("\n".join([*lines, settings.extra, ""]))
    if settings.accounting and ports.munge.parent == folder:
        database = folder / "slurmdbd.conf"
        database.touch(0o600)  # slurmdbd refuses to start otherwise
        database.write_text("\n".join([*_database(folder, ports), ""]))


def _controller(folder: Path, settings: Settings, ports: Ports) -> Iterator[str]:
    yield f"ClusterName=test{ports.slurmctld}"
    yield f"SlurmctldHost={_host()}(127.0.0.1)"
    yield f"SlurmctldPort={ports.slurmctld}"
    yield "AuthType=auth/munge"
    yield f"AuthInfo=socket={ports.munge},cred_expire=5"  # a requeued job waits one second longer than this
    yield "SlurmUser=root\nSlurmdUser=root"
    yield f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool.%n"
    yield f"SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.%n.pid"
    yield f"SlurmctldLogFile={folder}/slurmctld.log\nSlurmdLogFile={folder}/slurmd.%n.log"
    yield "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none"  # no cgroups: a container may not have them
    yield "MpiDefault=none\nSwitchType=switch/none"
    yield "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\nDefMemPerCPU=500"
    yield f"ReturnToService=2\nSlurmdTimeout={settings.slurmd_timeout_s}\nKillWait={settings.kill_wait_s}"
    yield f"MinJobAge={settings.min_job_age_s}\nMaxArraySize={settings.max_array_size}\nMaxJobCount=50000"
    yield "SchedulerParameters=sched_min_interval=1000,sched_interval=1,bf_interval=1"
    yield "GresTypes=gpu\nSlurmdParameters=config_overrides\nJobAcctGatherType=jobacct_gather/linux"
    if settings.enforce_memory:
        yield "JobAcctGatherParams=OverMemoryKill\nJobAcctGatherFrequency=task=1"
    if settings.preempt:
        yield "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE"
    if settings.user_signal:
        yield "SlurmctldParameters=preempt_send_user_signal"


def _accounts(settings: Settings, ports: Ports) -> Iterator[str]:
    if not settings.accounting:
        yield "AccountingStorageType=accounting_storage/none"
        return
    yield "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost"
    yield f"AccountingStoragePort={ports.slurmdbd}"
    yield f"AccountingStoragePass={ports.munge}"  # else the munged of the system is asked
    yield "AccountingStorageEnforce=associations,limits,qos"


def _nodes(settings: Settings, ports: Ports) -> Iterator[str]:
    for node, port in zip(settings.names, ports.nodes, strict=True):
        yield (
            f"NodeName={node} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={port} CPUs={settings.cpus} Sockets=1 "
            f"CoresPerSocket={settings.cpus} ThreadsPerCore=1 RealMemory={settings.memory_mb} "
            f"Gres=gpu:{settings.gpus} State=UNKNOWN"
        )
    if not settings.preempt:
        yield "PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
        yield "PartitionName=gpu Nodes=ALL MaxTime=1-00:00:00 State=UP"
        return
    yield "PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF"
    yield f"PartitionName=gpu Nodes=ALL MaxTime=1-00:00:00 State=UP PreemptMode=REQUEUE GraceTime={settings.grace_s}"
    yield "PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP PreemptMode=OFF"


def _database(folder: Path, ports: Ports) -> Iterator[str]:
    yield f"AuthType=auth/munge\nAuthInfo=socket={ports.munge}\nSlurmUser=root"
    yield f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={ports.slurmdbd}"
    yield f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={ports.database}"
    yield "StorageUser=root\nStorageLoc=slurm_acct_db"
    yield f"LogFile={folder}/slurmdbd.log\nPidFile={folder}/slurmdbd.pid"


def _host() -> str:
    return socket.gethostname().split(".")[0]
