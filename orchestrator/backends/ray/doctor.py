"""Check that a Ray cluster answers: `nagbench doctor --site`."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.doctor_rows import DoctorRow, missing_weights, weights
from orchestrator.backends.ray.connection import require_listening
from orchestrator.backends.ray.jobs import status
from orchestrator.backends.site import Site
from orchestrator.errors import NagbenchError
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store


def doctor(site: Site, store: Store, plan: Plan | None = None) -> Iterator[DoctorRow]:
    """Check both addresses of the cluster, and the weights that a sweep needs. A problem is a row."""
    yield from weights(missing_weights(plan) if plan else ())  # the nodes get them from here, through the store
    settings = site.settings
    try:
        if settings.address is not None:
            require_listening(settings.address)
        detail = f"{settings.address} answers" if settings.address else "not in the site file, so `run` cannot connect"
        yield DoctorRow("address", "ok" if settings.address else "warning", detail)
    except NagbenchError as error:
        yield DoctorRow(
            "address", "warning", str(error), "`run` works on a node of the cluster, `submit` from anywhere."
        )
    try:
        status("", store, site)
        yield DoctorRow("jobs", "ok", f"{settings.jobs} answers and grants us access")
    except NagbenchError as error:
        yield DoctorRow("jobs", "missing", str(error), "submit, status, logs and cancel need it.")
