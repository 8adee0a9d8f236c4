"""Means of a metric over extractors, such as FDr^k: values that no task computes, beside those of the extractors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.plan.reported import Reported, Value

Values = dict[str, tuple[Reported, Value]]  # by reported name


def with_means(values: Values) -> Values:
    """The values; before those of a metric that declares `mean_label` and has several extractors, its mean."""
    means = members(values)
    beside: Values = {}
    for name, (one, value) in values.items():
        mean = mean_name(value)
        if mean in means and means[mean][0] == name:
            words = f"{value.shown.mean_label}, k = {len(means[mean])}"
            shown = replace(value.shown, label=words, heading=None, mean_label="")
            whole = replace(value, name=mean, words=words, shown=shown)
            beside[mean] = replace(one, extractor="mean", suffix="", values=(whole,), mode="", prepares=""), whole
        beside[name] = one, value
    return beside


def mean_name(value: Value) -> str:
    return f"{value.name}_mean"


def members(values: Mapping[str, tuple[Reported, Value]]) -> dict[str, list[str]]:
    """By the name of a mean, the reported names of which it is the mean."""
    found: dict[str, list[str]] = {}
    for name, (_, value) in values.items():
        if value.shown.mean_label:
            found.setdefault(mean_name(value), []).append(name)
    return {mean: names for mean, names in found.items() if len(names) > 1}


def mean_entry(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of a cell's scores as a score of its own. `tasks`: whose influences have its influence as their mean.

    The interval is as wide as the mean of theirs, which is the most that it can be: the extractors see the same samples
    and their errors are correlated in an unknown way. Differences of cells use the influences and are exact.
    """
    scores, stamps = [entry["score"] for entry in entries], [entry["stamp"] for entry in entries]
    score = {
        key: None if None in (known := [one[key] for one in scores]) else sum(known) / len(known)
        for key in ("value", "low", "high", "extrapolated")
    }
    reason = next((one["reason"] for one in scores if one["reason"]), None)
    extractors = [stamp["extractor"]["name"] for stamp in stamps]
    stamp = {
        **stamps[0],
        "extractor": {"name": f"mean of {', '.join(extractors)}", "fields": {}},
        "weights": None,
        "reference": [stamp["reference"] for stamp in stamps],
    }
    dimensions = [entry["dimension"] for entry in entries if entry.get("dimension")]
    return {
        "score": {**score, "reason": reason},
        "task": entries[0]["task"],
        "tasks": [entry["task"] for entry in entries],
        "name": name,
        "influence": entries[0]["influence"],
        "stamp": stamp,
        "dimension": max(dimensions, default=None),
    }
