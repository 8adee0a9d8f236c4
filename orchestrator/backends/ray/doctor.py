"""Whether a Ray cluster answers: `nagbench doctor --site`."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.doctor_rows import Row, missing_weights, weights
from orchestrator.backends.ray.connection import check_answers
from orchestrator.backends.ray.jobs import status
from orchestrator.backends.site import Site
from orchestrator.errors import NagbenchError
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store


def doctor(site: Site, store: Store, plan: Plan | None = None) -> Iterator[Row]:
    """Both addresses of a Ray cluster, and the weights that a sweep needs. What is wrong is a row."""
    yield from weights(missing_weights(plan) if plan else ())  # what is here goes into the store, and so to the nodes
    settings = site.settings
    try:
        if settings.address is not None:
            check_answers(settings.address)
        said = f"{settings.address} answers" if settings.address else "not in the site file: `run` has no way there"
        yield Row("address", "ok" if settings.address else "warning", said)
    except NagbenchError as error:
        yield Row("address", "warning", str(error), "`run` is for a node of the cluster; `submit` for anywhere.")
    try:
        status("", store, site)
        yield Row("jobs", "ok", f"{settings.jobs} answers, and takes us")
    except NagbenchError as error:
        yield Row("jobs", "missing", str(error), "Without it there is no submit, status, logs and cancel.")
