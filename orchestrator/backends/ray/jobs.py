"""A sweep as a job of a Ray cluster: the engine runs on the cluster, and whoever submitted it can leave.

The job goes on with the plan that was put into the store at submission, so it needs no file of the submitter's; it may
die and be submitted again. The id of a job is made of the sweep, its plan and the store: submitted twice is once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.backends.campaign import patiently
from orchestrator.backends.ray.connection import check_answers, environment, import_ray, token_of
from orchestrator.backends.ray.settings import Ray as Settings
from orchestrator.backends.ray.settings import RayWorker
from orchestrator.backends.site import Site
from orchestrator.errors import BadInput, EnvironmentProblem, NagbenchError
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.execution.engine import keep_plan, take_in
from orchestrator.identity import digest
from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import read_plan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

RUNNING = ("PENDING", "RUNNING")
FILE = "job.json"  # in the job's working directory
STOP_S = 60.0
AGENT_S = 60.0  # until a node of a cluster takes jobs


@dataclass(frozen=True)
class Job:
    id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    message: str
    started: float | None  # seconds since the epoch
    ended: float | None

    @property
    def runs(self) -> bool:
        return self.status in RUNNING


def submit(plan: Plan, store: Store, site: Site, options: Options) -> tuple[Job, bool]:
    """Hand a sweep to the cluster; the job, and whether it is a new one. One that is queued or runs is left alone, one
    that has ended is followed by another.

    Raises BadInput and EnvironmentProblem, before anything is queued.
    """
    settings: Settings = site.settings
    if store.url.startswith("memory:"):
        raise BadInput(f"store {store.url} is of this process alone; the nodes cannot see it")
    with _client(site) as client:
        store.open()
        name = keep_plan(plan, store)
        take_in(plan, store, missing(plan, Done(store)))
        stem, patient = f"{_stem(plan.sweep.name, store)}-{name[:8]}", time.monotonic() + AGENT_S
        while True:
            earlier = [job for job in _jobs(client) if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", job.id)]
            for job in earlier:
                if job.runs:
                    return job, False
            number = max((int(job.id.removeprefix(stem)[1:] or 1) for job in earlier), default=0) + 1
            made = stem if number == 1 else f"{stem}-{number}"
            with tempfile.TemporaryDirectory() as folder:
                code = snapshot(Path(folder))
                (code / FILE).write_text(json.dumps(_work(store, name, options, settings)))
                try:
                    client.submit_job(
                        entrypoint=f"{shlex.quote(settings.python)} -m orchestrator.backends.ray.jobs {FILE}",
                        submission_id=made,
                        runtime_env={"working_dir": str(code)},
                        metadata={"sweep": plan.sweep.name, "store": _url(store)},
                    )
                except RuntimeError as error:
                    if "already exists" in str(error):
                        continue  # somebody was faster
                    if "No available agent" in str(error) and time.monotonic() < patient:
                        time.sleep(1.0)  # of a cluster that has just come up
                        continue
                    raise EnvironmentProblem(f"{settings.jobs} took no job: {_first(error)}") from error
            return _job(client.get_job_info(made)), True


def status(sweep: str, store: Store, site: Site) -> list[Job]:
    """The jobs of a sweep on a store, the latest last."""
    with _client(site) as client:
        return _of(client, sweep, store)


def logs(sweep: str, store: Store, site: Site) -> str:
    """What the latest job of a sweep has written. Raises BadInput if there is none."""
    with _client(site) as client:
        found = _of(client, sweep, store)
        if not found:
            raise BadInput(f"{site.settings.jobs} has no job of sweep {sweep} on store {store.url}")
        return client.get_job_logs(found[-1].id)


def cancel(sweep: str, store: Store, site: Site) -> list[Job]:
    """End the jobs of a sweep, and wait until they have. What is published stays. Returns those that were running."""
    with _client(site) as client:
        ended = [job for job in _of(client, sweep, store) if job.runs]
        for job in ended:
            client.stop_job(job.id)
        until = time.monotonic() + STOP_S
        while any(_job(client.get_job_info(job.id)).runs for job in ended):
            if time.monotonic() > until:
                raise EnvironmentProblem(f"job {ended[0].id} does not end; see its logs at {site.settings.jobs}")
            time.sleep(0.5)
        return ended


def _stem(sweep: str, store: Store) -> str:
    return f"nagbench-{sweep}-{digest(_url(store))[:8]}"


def _url(store: Store) -> str:
    """A store as other machines can open it."""
    return store.root if store.local else store.url


def _of(client: Any, sweep: str, store: Store) -> list[Job]:
    stem = _stem(sweep, store)
    return sorted(
        (job for job in _jobs(client) if re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}(-\d+)?", job.id)),
        key=lambda job: job.started or time.time(),
    )


def _jobs(client: Any) -> list[Job]:
    return [_job(details) for details in client.list_jobs() if details.submission_id]


def _job(details: Any) -> Job:
    started, ended = (None if at is None else at / 1000 for at in (details.start_time, details.end_time))
    said = " ".join((details.message or "").split())
    return Job(details.submission_id, getattr(details.status, "value", details.status), said, started, ended)


@contextlib.contextmanager
def _client(site: Site) -> Any:
    """Ray's Job API. What it says goes out as EnvironmentProblem."""
    settings: Settings = site.settings
    if settings.jobs is None:
        raise BadInput(f"{site.path}: jobs is missing: the address of Ray's Job API, such as http://head:8265")
    import_ray()
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    url = urlsplit(settings.jobs)
    check_answers(f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}")
    with environment({"RAY_USAGE_STATS_ENABLED": "0", **token_of(settings.token_file)}):
        try:
            yield JobSubmissionClient(settings.jobs)
        except NagbenchError:
            raise
        except Exception as error:
            text = str(error)
            if any(word in text for word in ("401", "403", "Unauthorized", "Unauthenticated", "authentication token")):
                wanted = "does not take our token" if os.environ.get("RAY_AUTH_MODE") == "token" else "wants a token"
                raise EnvironmentProblem(
                    f"{settings.jobs} {wanted}: put the cluster's into ~/.ray/auth_token or RAY_AUTH_TOKEN, or name "
                    f"its file as token_file in {site.path}"
                ) from error
            raise EnvironmentProblem(f"Ray's Job API at {settings.jobs}: {_first(error)}") from error


def _first(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


# On the cluster.


def _work(store: Store, plan: str, options: Options, settings: Settings) -> dict[str, Any]:
    """All that the job is told. No secret is in it: Ray keeps it for everybody to see."""
    told = dataclasses.replace(settings, token_file=None, address=None, jobs=None)
    return {
        "store": _url(store),
        "plan": plan,
        "options": dataclasses.asdict(options),
        "settings": dataclasses.asdict(told),
    }


def _settings(told: dict[str, Any]) -> Settings:
    parts = {name: RayWorker(**told[name]) for name in ("worker", "cpu_worker")}
    return Settings(**{**told, **parts, "cpu_stages": tuple(told["cpu_stages"])})


def drive(work: dict[str, Any], address: str, say: Callable[[Any], None]) -> int:
    """Run the engine; the exit code."""
    from rich.console import Console

    from orchestrator.backends.ray.backend import Ray
    from orchestrator.execution import engine
    from orchestrator.report.progress import Lines

    store, observer = Store(work["store"]), Lines(Console(stderr=True, highlight=False, soft_wrap=True))
    options, settings = Options(**work["options"]), _settings(work["settings"])
    plan = read_plan(store, work["plan"])
    failed = patiently(
        lambda: engine.run(plan, store, lambda: Ray(store, options, settings, address), observer), observer.note
    )
    say(f"{len(failed)} tasks failed" if failed else "all done")
    return 1 if failed else 0


def main() -> None:
    """`python -m orchestrator.backends.ray.jobs job.json`, started by Ray on the cluster, whose address Ray says."""

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
