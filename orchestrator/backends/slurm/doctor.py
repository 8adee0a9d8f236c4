"""Check a Slurm cluster: its configuration, and what one tiny real job finds on a node (`nagbench doctor --site`)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nag import locations
from orchestrator.backends.campaign import shared_folder
from orchestrator.backends.doctor_rows import DoctorRow, missing_weights, weights
from orchestrator.backends.sharing import group_of, share
from orchestrator.backends.site import Site
from orchestrator.backends.slurm.commands import Commands, QueryFailed, Unsupported, clean_environment
from orchestrator.backends.slurm.log_causes import tail, telling_line
from orchestrator.backends.slurm.owner import owner
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.reasons import advice
from orchestrator.backends.slurm.sbatch import Refused
from orchestrator.backends.slurm.settings import STAGES
from orchestrator.backends.slurm.submission import check_partitions
from orchestrator.errors import NagbenchError, TransientError
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.plan.model import Plan
from orchestrator.store.folders import closed_to_others
from orchestrator.store.store import Store

SKEW_S = 5.0  # between clocks; from this much on, times in records mislead
WAIT_S = 180.0


@dataclass(frozen=True)
class Probe:
    """Called by submitit on a node. It writes what it finds there into the file `answer`."""

    store: str
    answer: str
    data: tuple[str, ...] = ()  # data sets that the sweep reads in place

    def __call__(self, index: int) -> None:
        now = time.time()
        result: dict[str, Any] = {
            "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
            "time": now,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "asked_cores": os.environ.get("SLURM_CPUS_PER_TASK"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "devices": 0,
            "torch": "",
            "store": "",
            "submits": "",
            "unseen": [place for place in self.data if not _is_there(place)],
        }
        try:
            import torch

            result |= {"torch": torch.__version__, "devices": torch.cuda.device_count()}
        except Exception as error:  # noqa: BLE001  (any error at import is the answer)
            result["torch"] = f"broken: {error}"
        try:
            opened, name = Store(self.store), f"doctor/{uuid.uuid4().hex}"
            opened.create(name, b"here")
            opened.delete(name)
        except Exception as error:  # noqa: BLE001
            result["store"] = f"{type(error).__name__}: {error}"
        result["submits"] = self._submits()
        Path(self.answer).write_text(json.dumps(result))

    def _submits(self) -> str:
        """Why no job can be submitted from here; "" if one can."""
        if shutil.which("sbatch") is None:
            return "no sbatch on the node"
        environment = clean_environment(os.environ)
        command = ["sbatch", "--test-only", "--time=1", "--wrap=true"]
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
            return "" if done.returncode == 0 else done.stderr.strip()[-200:]
        return "sbatch does not answer there"


def _is_there(place: str) -> bool:
    try:
        return locations.exists(place)
    except (OSError, ValueError):  # it cannot be read, or is not a valid location
        return False


def doctor(site: Site, store: Store, plan: Plan | None = None) -> Iterator[DoctorRow]:
    """Check a site, and what a sweep needs there. A problem is a row, not an exception."""
    yield from weights(missing_weights(plan) if plan else ())  # the nodes get them from here, through the store
    commands = Commands(clusters=site.settings.clusters)
    try:
        check_partitions(site, commands)
        yield DoctorRow("site", "ok", f"{site.path}: its partitions are there, and its time limits fit")
        config = commands.config()
        folder = shared_folder(store, site)
    except QueryFailed as error:
        fix = "Slurm does not answer here now, which says nothing about the site file. Is this a login node? Ask later."
        yield DoctorRow("site", "missing", str(error), fix)
        return
    except NagbenchError as error:
        yield DoctorRow("site", "missing", str(error), "Correct the site file, or ask the site.")
        return
    yield from _configuration(config, commands)
    yield from _nodes(site, commands)
    yield from _accounts(site, commands)
    data = tuple(each.place for each in plan.outside.values() if not each.copied) if plan else ()
    yield from _probe(site, store, folder, commands, data)


def _configuration(config: dict[str, str], commands: Commands) -> Iterator[DoctorRow]:
    """Arrays, preemption and accounting, as Slurm is configured."""
    yield DoctorRow(
        "arrays", "ok", f"up to {config.get('MaxArraySize', '?')} array tasks, {config.get('MaxJobCount', '?')} jobs"
    )
    mode, kind = config.get("PreemptMode", "OFF"), config.get("PreemptType", "")
    if "none" in kind or mode.upper().startswith("OFF"):
        yield DoctorRow("preemption", "ok", "none on this cluster")
    else:
        warned = "preempt_send_user_signal" in config.get("SlurmctldParameters", "")
        warning = "jobs are warned" if warned else "jobs are not warned (no preempt_send_user_signal)"
        requeues = "REQUEUE" in mode.upper()
        fix = "" if requeues else "Preempted jobs are not requeued; run nagbench submit again to go on."
        detail = f"{mode}; {warning}; a block of samples at most is lost"
        yield DoctorRow("preemption", "ok" if requeues else "warning", detail, fix)
    try:
        commands.accounts(["1"], 1.0)
        yield DoctorRow("accounting", "ok", "sacct answers")
    except Unsupported:
        fix = "Runs work without it; how a lost job ended is then read from squeue and its log."
        yield DoctorRow("accounting", "warning", "no sacct", fix)
    except QueryFailed as error:
        yield DoctorRow("accounting", "warning", str(error), "Is slurmdbd up?")


def _nodes(site: Site, commands: Commands) -> Iterator[DoctorRow]:
    """The nodes of the site's partitions."""
    wanted = {name for gpus in (0, 1) for name in (site.settings.partition_of(gpus) or "").split(",")}
    with contextlib.suppress(QueryFailed):
        for each in commands.nodes():
            if each.partition in wanted:
                gpus = "".join(f", {number} GPU {kind}".rstrip() for kind, number in each.gpus.items())
                size = f"{each.cpus} CPU, {each.memory_gb:.0f} GB{gpus}"
                yield DoctorRow("nodes", "ok", f"{each.partition}: {each.count} of {size} ({each.state})")


def _accounts(site: Site, commands: Commands) -> Iterator[DoctorRow]:
    """The accounts of this user and their limits, if the cluster keeps accounts."""
    try:
        associations = commands.associations()
    except QueryFailed:  # the row of accounting says so
        return
    names, account = sorted({each.account for each in associations}), site.settings.account
    if associations and account is not None and account not in names:
        detail = f"you have no account {account!r}, but {', '.join(names)}"
        yield DoctorRow("account", "missing", detail, "Correct account in the site file, or ask the site.")
        return
    limits = [each.max_minutes for each in associations if account in (None, each.account)]
    known = [limit for limit in limits if limit is not None]
    most = max(known) if known and len(known) == len(limits) else math.inf
    over = [name for name in STAGES if site.settings.resources(name).minutes > most]
    if over:
        detail = f"your jobs may run for {most:g} minutes, and {', '.join(over)} ask for more"
        yield DoctorRow("account", "missing", detail, "Such jobs never start: lower stages in the site file.")
    else:
        yield DoctorRow("account", "ok", ", ".join(names) or "none is needed")


def _probe(site: Site, store: Store, folder: Path, commands: Commands, data: tuple[str, ...]) -> Iterator[DoctorRow]:
    """Run one job with the resources of the sample stage."""
    name = f"nb.{owner()}.doctor.{uuid.uuid4().hex[:8]}"
    try:
        share(store, site)
        store.open()
        place = folder / name
        with closed_to_others():
            place.mkdir(parents=True)
        answer = place / "answer.json"
        began = time.time()
        resources, code = site.settings.resources("sample"), snapshot(folder, group=group_of(site))
        job = queue(site.settings, place, code, name, resources, Probe(store.url, str(answer), data), 1)
    except Refused as error:
        yield DoctorRow("job", "missing", str(error), "Correct the site file, or ask the site.")
        return
    except TransientError as error:
        yield DoctorRow("job", "missing", str(error), "Slurm takes no job now; ask again later.")
        return
    except (NagbenchError, OSError) as error:
        yield DoctorRow(
            "job", "missing", str(error), f"{folder} must be a folder that you can write and all nodes see."
        )
        return
    try:
        result = _wait(answer, job, commands)
    finally:
        with contextlib.suppress(QueryFailed):
            commands.cancel([job])
    if isinstance(result, str):
        yield DoctorRow("job", "missing", f"job {job}: {result}", f"Its output: {place}")
        return
    yield from _node(result, site, began, time.time())
    shutil.rmtree(place, ignore_errors=True)


def _wait(answer: Path, job: str, commands: Commands) -> dict[str, Any] | str:
    """What the job wrote, or why it wrote nothing."""
    until, state = time.monotonic() + WAIT_S, "is in the queue"
    while time.monotonic() < until:
        if answer.exists():
            with contextlib.suppress(ValueError):
                return json.loads(answer.read_text())
        with contextlib.suppress(QueryFailed):
            rows = [row for row in commands.queue() if row.id == job]
            if rows and rows[0].over:
                time.sleep(2.0)  # a shared file system may show the file a little later
                if answer.exists():
                    return json.loads(answer.read_text())
                log = telling_line(tail(answer.parent / f"{job}_0_log.out"))
                return f"it ended ({rows[0].state}), and wrote nothing; its log: {log}"
            if rows and rows[0].state == "PENDING" and (fix := advice(rows[0].reason, "sample", job)):
                return f"it waits, and will not start by itself ({rows[0].reason}): {fix}"
            state = f"is {rows[0].state.lower()} ({rows[0].reason})" if rows else state
        time.sleep(1.0)
    return f"not done after {WAIT_S:.0f} s: it {state}"


def _node(result: dict[str, Any], site: Site, began: float, ended: float) -> Iterator[DoctorRow]:
    """The rows of what a Probe wrote. began, ended: when its job was submitted, and when its answer was there."""
    resources = site.settings.resources("sample")
    yield DoctorRow("job", "ok", f"ran on {result['host']}, {ended - began:.0f} s from sbatch to its answer")
    broken = result["torch"].startswith("broken")
    fix = "Does the node have this Python? Set python, setup or container in the site file."
    yield DoctorRow("torch on the node", "missing" if broken else "ok", result["torch"], fix if broken else "")
    gpus = [each for each in result["gpus"].split(",") if each]
    if len(gpus) == resources.gpus and result["devices"] == resources.gpus:
        yield DoctorRow("GPUs", "ok", f"{resources.gpus} requested, {resources.gpus} seen")
    else:
        visible, seen = result["gpus"] or "unset", result["devices"]
        detail = f"{resources.gpus} requested; CUDA_VISIBLE_DEVICES={visible}, torch sees {seen}"
        yield DoctorRow(
            "GPUs", "warning", detail, "Is gres right in the site file? Without a GPU, work runs on the CPU."
        )
    fits = str(result["cores"]) == str(result["asked_cores"])
    fix = "" if fits else "The site does not bind cores; jobs on a node may slow each other down."
    yield DoctorRow(
        "cores", "ok" if fits else "warning", f"{result['asked_cores']} requested, {result['cores']} seen", fix
    )
    fix = "The store must be a folder or URL that the nodes see."
    if result["store"]:
        yield DoctorRow("store on the node", "missing", result["store"], fix)
    else:
        yield DoctorRow("store on the node", "ok", "can be written")
    for place in result["unseen"]:
        fix = "Data sets are read in place, so every node must see them under that path."
        yield DoctorRow("data on the node", "missing", f"{place} is not there", fix)
    skew = max(0.0, began - result["time"], result["time"] - ended)
    fix = "" if skew < SKEW_S else "Times in records will mislead; ask the site about NTP."
    yield DoctorRow("clocks", "ok" if skew < SKEW_S else "warning", f"at most {skew:.0f} s apart", fix)
    if not result["submits"]:
        yield DoctorRow("submission from nodes", "ok", "allowed, so reconcile: job works")
    elif site.settings.reconcile == "job":
        fix = "Set reconcile: manual, and run nagbench submit again to repair."
        yield DoctorRow("submission from nodes", "missing", result["submits"], fix)
    else:
        yield DoctorRow("submission from nodes", "ok", result["submits"])
