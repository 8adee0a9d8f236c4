"""What MLflow's page of a sweep shows: three named views (verdict, scales, cost), the first metric, the kind.

MLflow keeps a view as an experiment tag in an undocumented format: its state, deflated; since 3.15 also in an envelope
with a name, which its page lists under Views. So views are optional: an MLflow that cannot read them shows its table.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from orchestrator.report.comparisons import groups
from orchestrator.report.estimates import distances, headline_metric
from orchestrator.report.results import Results
from orchestrator.spec.parameters import is_seed
from orchestrator.tracking.cell_runs import scale_keys
from orchestrator.tracking.curves import SCALE, curve_metrics
from orchestrator.tracking.login import in_workspace

SHARE = "nagbench"  # the key under which the first view is shared with older servers too
PREFIX = "mlflow.sharedViewState."
TAG = PREFIX + SHARE
SHOWN_AT_MOST = 40  # settings in a chart: of more, only the first 20 are drawn, which takes a browser long enough
COMPARED_AT_MOST = 300  # runs in a chart
AXES_AT_MOST = 7  # of parallel coordinates: more overlap
SETTINGS, CELLS, CURVES = (f"tags.kind = '{kind}'" for kind in ("setting", "cell", "curve"))
WIDTHS = {"setting": 200, "sampling": 140, "verdict": 190}  # of columns, in pixels
Chart = dict[str, Any]


def experiment_tags(results: Results) -> dict[str, str]:
    """The tags of a sweep's experiment, without its description."""
    tags = {TAG: _deflated(verdict_view(results)), "mlflow.experimentKind": "custom_model_development"}
    views = {"verdict": verdict_view, "scales": scales_view, "cost": cost_view}
    for place, (name, view) in enumerate(views.items(), 1):
        envelope = {"name": name, "createdAt": place, "updatedAt": place, "state": _deflated(view(results))}
        tags[f"{TAG}-{name}"] = json.dumps(envelope)
    if (first := headline_metric(results)) is not None:
        tags["mlflow.experiment.primaryMetric.name"] = first
        better = results.lower_is_better(first) is False
        tags["mlflow.experiment.primaryMetric.greaterIsBetter"] = str(better).lower()
    return tags


def link(server: str, experiment: str, mode: str = "CHART") -> str:
    """The address of a sweep's runs in the MLflow UI. mode: CHART or TABLE."""
    place = f"{server.rstrip('/')}/#/experiments/{experiment}/runs"
    return in_workspace(f"{place}?workflowType=machine_learning&viewStateShareKey={SHARE}&compareRunsMode={mode}")


def comparison_link(server: str, experiments: Sequence[str]) -> str:
    """The address of the settings of several sweeps in the MLflow UI."""
    chosen = urlencode({"experiments": json.dumps(list(experiments)), "searchFilter": SETTINGS}, quote_via=quote)
    return in_workspace(f"{server.rstrip('/')}/#/compare-experiments/s?{chosen}")


def verdict_view(results: Results) -> dict[str, Any]:
    """Settings side by side, means over seeds: the first metric, differences from baselines, then other metrics."""
    first = _first(results)
    decided = list(dict.fromkeys([first, *distances(results)]))
    others = [name for name in _deciding(results) if name not in decided]
    bars = [f"{first}_difference", *decided, *others][:6]
    charts = [_chart("BAR", f"bar-{name}", metricKey=name) for name in bars]
    parallel = _parallel(results, first)
    sections = [("cells", "Comparison", 2, 400), ("parallel", "Settings", 1, 460)]
    return _state(results, SETTINGS, [*charts, *parallel], sections, by=first)


def scales_view(results: Results) -> dict[str, Any]:
    """Every distance against the guidance scale, with one line an arm."""
    charts = [_against_scale(name) for name in curve_metrics(results)]
    view = _state(results, CURVES, charts, [("cells", "Distance against guidance scale", 2, 460)], by=_first(results))
    columns = [_column("params", "arm"), _column("params", "setting")]
    return view | {"selectedColumns": columns, "columnOrder": columns}


def cost_view(results: Results) -> dict[str, Any]:
    """Scores against what they cost, one point a cell; and curves over the noise level."""
    charts = [_scatter(cost, name) for name in curve_metrics(results) for cost in ("NFE", "worker_seconds")]
    charts += [_chart("BAR", f"bar-{name}", metricKey=name) for name in ("NFE", "worker_seconds")]
    if any(map(results.is_shift, results.metrics)):  # its steps are levels, 1000 t
        charts.append(_line("noise_shift", {"xAxisKey": "step", "selectedXAxisMetricKey": ""}))
    return _state(results, CELLS, charts, [("cells", "Cost", 2, 400)], by="NFE")


def _first(results: Results) -> str:
    return headline_metric(results) or "NFE"


def _deciding(results: Results) -> list[str]:
    """The metrics that decide something, those that cells are compared by first."""
    beside = {name: bool(results.shown(name).beside) for name in results.metrics}
    kept = [name for name in results.metrics if not results.is_cost(name)]
    return sorted(kept, key=lambda name: beside[name])


def _columns(results: Results) -> list[str]:
    """Arm, setting, sampler, task and NFE; then the verdict, then metrics, those compared with differences."""
    names = [_column("params", name) for name in ("arm", "setting", "sampling", "task")]
    names += [_column("metrics", "NFE"), _column("tags", "verdict")]
    compared = dict.fromkeys([_first(results), *distances(results)])
    for metric in compared:
        ends = ("", "_difference", "_difference_low", "_difference_high")
        names += [_column("metrics", f"{metric}{end}") for end in ends]
    names += [_column("metrics", metric) for metric in _deciding(results) if metric not in compared]
    return list(dict.fromkeys([*names, _column("metrics", "worker_seconds"), _column("params", "N")]))


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _parallel(results: Results, first: str) -> list[Chart]:
    """Scales and what else varies in every cell, next to the first metrics; none if nothing varies."""
    varying = [key for key, all_have in results.plan.varying.items() if all_have and not is_seed(key)]
    params = list(dict.fromkeys([*scale_keys(results), *varying]))[: AXES_AT_MOST - 3]
    others = [name for name in _deciding(results) if name != first and not results.shown(name).beside]
    axes = {"selectedParams": params, "selectedMetrics": ["NFE", *others[:1], first], "showAllRuns": True}
    return [_chart("PARALLEL", "parallel", "parallel", **axes)] if params else []


def _against_scale(metric: str) -> Chart:
    return _line(metric, {"xAxisKey": "metric", "selectedXAxisMetricKey": SCALE, "displayPoints": True})


def _line(metric: str, axis: Mapping[str, Any]) -> Chart:
    plain: Chart = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
    own: Chart = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False}
    return _chart("LINE", f"line-{metric}") | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        **plain,
        **own,
        **axis,
    }


def _scatter(x: str, y: str) -> Chart:
    axes = {"xaxis": {"type": "METRIC", "key": x}, "yaxis": {"type": "METRIC", "key": y}}
    return {**_chart("SCATTER", f"{y}-{x}"), **axes}


def _chart(kind: str, name: str, section: str = "cells", **more: Any) -> Chart:
    shown = {"deleted": False, "isGenerated": False, "runsCountToCompare": COMPARED_AT_MOST}
    return {"type": kind, "uuid": name, "metricSectionId": section, **shown, **more}


def _state(
    results: Results, runs: str, charts: Sequence[Chart], sections: Sequence[tuple[str, str, int, int]], by: str
) -> dict[str, Any]:
    """A view of the runs that a filter selects, sorted by a metric. sections: id, title, charts in a row, height."""
    lower = by not in results.metrics or results.lower_is_better(by) is not False
    rows = [
        {"uuid": i, "name": name, "display": True, "isReordered": False, "columns": in_a_row, "cardHeight": height}
        for i, name, in_a_row, height in sections
        if any(chart["metricSectionId"] == i for chart in charts)
    ]
    columns, drawn = _columns(results), 0
    if runs == SETTINGS:
        drawn = sum(len(groups(results, arm.name)) for arm in results.plan.sweep.arms)
    widths = {name: next((w for key, w in WIDTHS.items() if f"`{key}`" in name), 100) for name in columns}
    return {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{by}`",
        "orderByAsc": lower,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": widths,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL" if drawn <= SHOWN_AT_MOST else "FIRST_20_RUNS",
        "viewMaximized": True,
        "runListHidden": True,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": False,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": rows,
        "compareRunCharts": list(charts),
    }


def _deflated(state: Mapping[str, Any]) -> str:
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
