"""Check that a Ray cluster does what `run` and `submit` need: `nagbench doctor --site`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from orchestrator.backends.doctor_rows import DoctorRow, missing_weights, weights
from orchestrator.backends.ray.backend import Ray, cause_of_death
from orchestrator.backends.ray.connection import require_listening
from orchestrator.backends.ray.handles import start
from orchestrator.backends.ray.jobs import status
from orchestrator.backends.ray.nodes import capacity, describe_nodes
from orchestrator.backends.site import Site
from orchestrator.errors import EnvironmentProblem, NagbenchError
from orchestrator.execution.protocol import Bundle
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

ROOM_S = 60.0  # for a worker to come up


def doctor(site: Site, store: Store, plan: Plan | None = None) -> Iterator[DoctorRow]:
    """Check both addresses of the cluster, and the weights that a sweep needs. A problem is a row."""
    yield from weights(missing_weights(plan) if plan else ())  # the nodes get them from here, through the store
    yield address(site, store)
    try:
        status("", store, site)
        yield DoctorRow("jobs", "ok", f"{site.settings.jobs} answers and grants us access")
    except NagbenchError as error:
        yield DoctorRow("jobs", "missing", str(error), "submit, status, logs and cancel need it.")


def address(site: Site, store: Store) -> DoctorRow:
    """Connect as `run` does, and start a worker."""
    where = site.settings.address
    if where is None:
        return DoctorRow("address", "warning", "not in the site file, so `run` cannot connect")
    try:
        require_listening(where)
    except NagbenchError as error:
        fix = "`run` works on a node of the cluster, `submit` from anywhere."
        return DoctorRow("address", "warning", str(error), fix)
    try:
        return _worker(Ray(store, Options(), site.settings, where), where)
    except NagbenchError as error:
        return DoctorRow("address", "missing", str(error), "`run` needs it; `submit` works without.")


def _worker(backend: Ray, where: str) -> DoctorRow:
    """Start a worker, wait until it is up, and end it. Raises EnvironmentProblem if it cannot work."""
    try:
        asked = [backend.request(Bundle((), kind=kind)) for kind in ("sample", "score")]
        for request in asked:
            if not capacity(request, backend.nodes):
                raise EnvironmentProblem(
                    f"no node of the Ray cluster at {where} can hold a worker of {request}; "
                    f"it has {describe_nodes(backend.nodes)}"
                )
        worker = start(backend.connection, asked[0], [], backend.url, dataclasses.asdict(backend.options), "")
        end = time.monotonic() + ROOM_S
        while time.monotonic() < end:
            for message in backend.connection.receive(1.0):
                if message.get("worker") != worker.number:
                    continue
                if message["event"] == "death":
                    raise EnvironmentProblem(f"a worker did not start: {cause_of_death(message, 'of the cluster')[1]}")
                about = message["answer"]
                if about["problem"]:
                    raise EnvironmentProblem(f"on node {about['host']} of the Ray cluster: {about['problem']}")
                return DoctorRow("address", "ok", f"{where} answers, and a worker started on node {about['host']}")
        return DoctorRow("address", "warning", f"{where} answers, but has had no room for a worker in {ROOM_S:.0f} s")
    finally:
        backend.close()
