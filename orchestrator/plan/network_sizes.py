"""The networks of a plan by name and size, so that a site can give large ones more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nag.models.sizes import parameters
from orchestrator.plan.model import StoredPlan


def parameters_of(model: Any) -> float | None:
    """About how many parameters a model has, from its fields (an instance, or a mapping of those that differ from the
    defaults); None if they do not tell, as of a user's own model.
    """
    fields = model if isinstance(model, Mapping) else {name: getattr(model, name, None) for name in ("hidden", "depth")}
    hidden, depth = fields.get("hidden"), fields.get("depth")
    known = isinstance(hidden, int) and isinstance(depth, int)
    return float(parameters(hidden, depth)) if known else None  # type: ignore[arg-type]


def network_of(plan: StoredPlan, digest: str) -> tuple[str, float | None]:
    """Name and size of the network that a task makes; ("", None) if it makes none of this plan."""
    if digest not in plan.instances or digest not in plan.tasks:
        return "", None
    params = plan.tasks[digest].params
    while "init" in params and params["init"] in plan.tasks and "model" not in params:
        params = plan.tasks[params["init"]].params
    model = params.get("model") or {}
    return plan.instances[digest].name, parameters_of({**_defaults(model), **model.get("fields", {})})


def _defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the fields that tell the size, of one of nagbench's own models."""
    from nag.registry import METHODS, find

    if "source" in model or model.get("name") not in METHODS["models"]:
        return {}
    fields: Any = dataclasses.fields(find("models", model["name"]))
    return {each.name: each.default for each in fields if each.name in ("hidden", "depth")}
