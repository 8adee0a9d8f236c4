"""Inputs of a sweep that are not on this machine. Such a sweep can be planned, and run with --smoke, but not run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from nag.registry import name_of
from orchestrator.errors import BadInput
from orchestrator.identity import Absent, MissingWeights, outside
from orchestrator.plan.model import Plan
from orchestrator.spec.model import Sweep
from orchestrator.spec.reference_file import Published

LAYOUT = "put it there or correct its path; docs/sweep.md, 'Data sets', has the layout"
PUT = "put it there or correct its path"
Finding = tuple[str, str]  # the key that names it; what it is, and what to do


def absent(plan: Plan) -> list[str]:
    """A line for each absent input: its first key, what it is and what to do. No file is read."""
    keys: dict[str, str] = {}
    for key, what in (*_of_networks(plan), *_of_score(plan.sweep)):
        keys.setdefault(what, key)
    return [f"{key}: {what}" for what, key in keys.items()]


def refuse(plan: Plan) -> None:
    """Raise BadInput if an input is absent."""
    lines = absent(plan)
    if lines:
        inputs = "an input is" if len(lines) == 1 else f"{len(lines)} inputs are"
        listed = "\n".join(f"  {line}" for line in lines)
        raise BadInput(f"{plan.sweep.path}: {inputs} not on this machine:\n{listed}")


def _of_networks(plan: Plan) -> Iterator[Finding]:
    for network in plan.networks:
        key = f"networks.{network.name}"
        if network.checkpoint and not os.path.exists(network.checkpoint):
            yield f"{key}.checkpoint", f"{os.path.normpath(network.checkpoint)}: there is no such file; {PUT}"
        for name in ("data", "autoencoder"):
            yield from _of(f"{key}.{name}", getattr(network, name))


def _of_score(sweep: Sweep) -> Iterator[Finding]:
    score = sweep.score
    if score is None:
        return
    if isinstance(score.reference, Published):
        if not score.reference.is_url and score.reference.local() is None:
            yield "score.reference", f"{score.reference.path}: there is no such file; {PUT}"
    else:
        yield from _of("score.reference", score.reference)
    yield from _of("score.decode", score.decode)
    for extractor in score.features:
        yield from _of(f"score.features: {name_of(extractor)}", extractor)


def _of(key: str, method: Any) -> Iterator[Finding]:
    """The absent files and folders of a method (FILES and FOLDERS, nag.registry)."""
    if method is None:
        return
    for each in outside(method, compute=False).values():
        if isinstance(each, MissingWeights):
            yield key, f"the weights {each.name}: nagbench fetch {each.name}"
        elif isinstance(each, Absent) and each.copied:
            is_name = not os.path.isabs(each.place) and key.endswith((".autoencoder", ".decode"))
            fix = f"hf download {each.place}, or give the path of a folder" if is_name else PUT
            yield key, f"{each.place}: there is no such file or folder; {fix}"
        elif isinstance(each, Absent):
            yield key, f"{each.place}: there is no such folder; {LAYOUT}"
