"""Run a sweep as a job of a Ray cluster. The engine runs on the cluster, so the user can log out.

The job reads the plan that was put into the store at submission, so it needs no other file of the user; it may die and
be submitted again. A job's id is made of the sweep, its plan and the store, so submitting twice queues one job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.backends.campaign import check_store, patiently
from orchestrator.backends.ray.child import Child
from orchestrator.backends.ray.connection import MODE, first_line, require_listening, token_of, token_problem
from orchestrator.backends.ray.settings import RaySettings, RayWorker
from orchestrator.backends.site import Site
from orchestrator.errors import BadInput, EnvironmentProblem, NagbenchError
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.execution.engine import keep_plan, take_in
from orchestrator.identity import digest
from orchestrator.plan.model import Plan
from orchestrator.plan.stored_plan import read_plan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

RUNNING = ("PENDING", "RUNNING")
FILE = "job.json"  # in the job's working directory
STOP_S = 60.0
CALL_S = 120.0  # until an answer, with the import of Ray; packages are uploaded meanwhile
OF_RAY = re.compile(r"job_manager\.py|^Running entrypoint for job ")  # lines of a job's log that are not its own
AGENT_S = 240.0  # until a new cluster accepts jobs, which takes over a minute on a very busy machine


@dataclass(frozen=True)
class RayJob:
    id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    message: str
    started: float | None  # seconds since the epoch
    ended: float | None

    @property
    def runs(self) -> bool:
        return self.status in RUNNING


def submit(plan: Plan, store: Store, site: Site, options: Options) -> tuple[RayJob, bool]:
    """Submit a sweep, unless a job for it is pending or runs. Returns the job, and whether it is new.

    Raises BadInput and EnvironmentProblem, before anything is queued.
    """
    settings: RaySettings = site.settings
    check_store(store)
    with _client(site) as client:
        store.open()
        name = keep_plan(plan, store)
        take_in(plan, store, plan.tasks)
        stem, until = f"{_stem(plan.sweep.name, store)}-{name[:8]}", time.monotonic() + AGENT_S
        while True:
            earlier = [job for job in _jobs(client) if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", job.id)]
            for job in earlier:
                if job.runs:
                    return job, False
            number = max((int(job.id.removeprefix(stem)[1:] or 1) for job in earlier), default=0) + 1
            job_id = stem if number == 1 else f"{stem}-{number}"
            with tempfile.TemporaryDirectory() as folder:
                code, python = snapshot(Path(folder)), shlex.quote(settings.python or "python")
                (code / FILE).write_text(json.dumps(_job_document(store, name, options, settings)))
                try:
                    client.submit_job(
                        entrypoint=f"{python} -m orchestrator.backends.ray.jobs {FILE}",
                        submission_id=job_id,
                        runtime_env={"working_dir": str(code)},
                        metadata={"sweep": plan.sweep.name, "store": _url(store)},
                    )
                except JobError as error:
                    if "already exists" in str(error):
                        continue  # another submission was faster
                    if "No available agent" in str(error) and time.monotonic() < until:
                        time.sleep(1.0)  # the cluster has just come up
                        continue
                    raise EnvironmentProblem(f"{settings.jobs} rejected the job: {first_line(str(error))}") from error
            return _job(client.get_job_info(job_id)), True


def status(sweep: str, store: Store, site: Site) -> list[RayJob]:
    """The jobs of a sweep on a store, the latest last."""
    with _client(site) as client:
        return _jobs_of(client, sweep, store)


def logs(sweep: str, store: Store, site: Site) -> str:
    """The log of the latest job of a sweep. Raises BadInput if there is none."""
    with _client(site) as client:
        jobs = _jobs_of(client, sweep, store)
        if not jobs:
            raise BadInput(f"{site.settings.jobs} has no job of sweep {sweep} on store {store.url}")
        return client.get_job_logs(jobs[-1].id)


def cancel(sweep: str, store: Store, site: Site) -> list[RayJob]:
    """Stop the jobs of a sweep and wait until they have ended. Returns those that were pending or running."""
    with _client(site) as client:
        stopped = [job for job in _jobs_of(client, sweep, store) if job.runs]
        for job in stopped:
            client.stop_job(job.id)
        until = time.monotonic() + STOP_S
        while any(_job(client.get_job_info(job.id)).runs for job in stopped):
            if time.monotonic() > until:
                raise EnvironmentProblem(f"job {stopped[0].id} does not end; see its logs at {site.settings.jobs}")
            time.sleep(0.5)
        return stopped


def _stem(sweep: str, store: Store) -> str:
    return f"nagbench-{sweep}-{digest(_url(store))[:8]}"


def _url(store: Store) -> str:
    """The address of a store for other machines: absolute, if it is a folder."""
    return store.root if store.local else store.url


def _jobs_of(client: Client, sweep: str, store: Store) -> list[RayJob]:
    stem = _stem(sweep, store)
    return sorted(
        (job for job in _jobs(client) if re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}(-\d+)?", job.id)),
        key=lambda job: job.started or time.time(),
    )


def _jobs(client: Client) -> list[RayJob]:
    return [_job(details) for details in client.list_jobs() if details["id"]]


def _job(details: dict[str, Any]) -> RayJob:
    started, ended = (None if details[at] is None else details[at] / 1000 for at in ("started", "ended"))
    return RayJob(details["id"], details["status"], _reason(details["message"] or ""), started, ended)


def _reason(message: str) -> str:
    """What Ray says of a job, and of its log, which Ray appends, the last line that is the job's own."""
    said, _, log = message.partition(", last available logs")
    lines = [line for line in log.splitlines()[1:] if line.strip() and not OF_RAY.search(line)]
    return " ".join(f"{said}: {lines[-1]}".split() if lines else said.split())


class JobError(Exception):
    """What Ray's Job API does not do, in its words."""


class Client:
    """Ray's JobSubmissionClient, in a child process: its methods have the same names and arguments. A job's details are
    a dictionary: id, status, message, started, ended (ms).
    """

    def __init__(self, url: str, changes: Mapping[str, str]) -> None:
        self.child = Child("orchestrator.backends.ray.job_client", changes, arguments=[url])

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._call, method)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        self.child.send({"method": method, "arguments": arguments, "named": named})
        answer = self.child.receive(CALL_S)
        if answer is None:
            raise JobError(self.child.said() or f"no answer to {method} within {CALL_S:.0f} s")
        if "problem" in answer:
            raise EnvironmentProblem(answer["problem"])
        if "error" in answer:
            raise JobError(answer["error"])
        return answer["answer"]


@contextlib.contextmanager
def _client(site: Site) -> Iterator[Any]:
    """A client of Ray's Job API. Its errors are raised as EnvironmentProblem."""
    settings: RaySettings = site.settings
    if settings.jobs is None:
        raise BadInput(f"{site.path}: jobs is missing: the address of Ray's Job API, such as http://head:8265")
    url = urlsplit(settings.jobs)
    require_listening(f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}")
    token = token_of(settings.token_file)
    client = Client(settings.jobs, token)
    try:
        yield client
    except JobError as error:
        text = str(error)
        if any(word in text for word in ("401", "403", "Unauthorized", "Unauthenticated", "authentication token")):
            raise EnvironmentProblem(token_problem(settings.jobs, site.path, token.get(MODE))) from error
        raise EnvironmentProblem(f"Ray's Job API at {settings.jobs}: {first_line(text)}") from error
    finally:
        client.child.close()


# On the cluster.


def _job_document(store: Store, plan: str, options: Options, settings: RaySettings) -> dict[str, Any]:
    """The input of the job. No secrets: Ray shows it to everybody."""
    public = dataclasses.replace(settings, token_file=None, address=None, jobs=None, python=None)
    return {
        "store": _url(store),
        "plan": plan,
        "options": dataclasses.asdict(options),
        "settings": dataclasses.asdict(public),
    }


def _settings(document: dict[str, Any]) -> RaySettings:
    workers = {name: RayWorker(**document[name]) for name in ("worker", "cpu_worker")}
    return RaySettings(**{**document, **workers, "cpu_stages": tuple(document["cpu_stages"])})


def drive(document: dict[str, Any], address: str, say: Callable[[Any], None]) -> int:
    """Run the engine. Returns the exit code."""
    from rich.console import Console

    from orchestrator.backends.ray.backend import Ray
    from orchestrator.execution import engine
    from orchestrator.report.live import Lines

    store, observer = Store(document["store"]), Lines(Console(stderr=True, highlight=False, soft_wrap=True))
    options, settings = Options(**document["options"]), _settings(document["settings"])
    plan = read_plan(store, document["plan"])
    failed = patiently(
        lambda: engine.run(plan, store, lambda: Ray(store, options, settings, address, note=observer.note), observer),
        observer.note,
    )
    say(f"{len(failed)} tasks failed" if failed else "all done")
    return 1 if failed else 0


def main() -> None:
    """`python -m orchestrator.backends.ray.jobs job.json`: Ray runs it on the cluster and sets RAY_ADDRESS."""

    def say(text: Any) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    try:
        code = drive(json.loads(Path(sys.argv[1]).read_text()), os.environ["RAY_ADDRESS"], say)
    except NagbenchError as error:
        say(error)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
