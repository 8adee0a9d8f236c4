"""The view that `nagbench ui` links to: chosen columns, cells only, charts of cost, parameters and scores.

MLflow keeps such a view as an experiment tag in an undocumented format. So it is optional: an MLflow that cannot read
it shows its plain table.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from orchestrator.report.results import Results

SHARE = "nagbench"  # the key under which the view is shared
TAG = f"mlflow.sharedViewState.{SHARE}"
SHOWN_AT_MOST = 200  # lines in a chart


def tag_value(results: Results) -> str:
    text = json.dumps(state(results), sort_keys=True, separators=(",", ":"))
    return "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def link(server: str, experiment: str, mode: str = "CHART") -> str:
    """The address of a sweep's runs in the MLflow UI. mode: CHART or TABLE."""
    place = f"{server.rstrip('/')}/#/experiments/{experiment}/runs"
    return f"{place}?viewStateShareKey={SHARE}&compareRunsMode={mode}"


def state(results: Results) -> dict[str, Any]:
    varying = results.plan.varying
    params = [key for key in varying if key != "network"][:6]
    metrics = sorted(results.metrics, key=results.is_cost)  # what decides nothing comes last
    first = metrics[0] if metrics else "network_calls"
    columns = [f"params.`{key}`" for key in params]
    columns += [f"metrics.`{name}`" for name in [*metrics[:4], "network_calls", "worker_seconds"]]
    seen: dict[str, Any] = {"deleted": False, "isGenerated": False, "metricSectionId": "cells"}
    seen["runsCountToCompare"] = SHOWN_AT_MOST
    axes = {"xaxis": {"type": "METRIC", "key": "network_calls"}, "yaxis": {"type": "METRIC", "key": first}}
    charts: list[dict[str, Any]] = [{"type": "SCATTER", "uuid": "price", **seen, **axes}]
    everywhere = [key for key in params if varying[key]]  # an axis that some runs lack hides them
    if everywhere and metrics:
        chosen = {"selectedParams": everywhere, "selectedMetrics": ["network_calls", *metrics[2:0:-1], first]}
        charts.append({"type": "PARALLEL", "uuid": "parallel", **seen, **chosen, "showAllRuns": True})
    charts += [{"type": "BAR", "uuid": f"bar-{name}", **seen, "metricKey": name} for name in metrics[:3]]
    if any(map(results.is_shift, metrics)):  # its steps are levels, 1000 t
        lines = {"metricKey": "noise_shift", "selectedMetricKeys": ["noise_shift"], "xAxisKey": "step"}
        plain = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "useGlobalXaxisKey": True}
        charts.append({"type": "LINE", "uuid": "shift", **seen, **lines, **plain, "selectedXAxisMetricKey": ""})
    return {
        "searchFilter": "tags.kind = 'cell'",
        "orderByKey": f"metrics.`{first}`",
        "orderByAsc": not metrics or results.lower_is_better(first) is not False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL" if len(results.plan.cells) <= SHOWN_AT_MOST else "FIRST_20_RUNS",
        "viewMaximized": True,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": False,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [{"uuid": "cells", "name": "Cells", "display": True, "isReordered": False}],
        "compareRunCharts": charts,
    }
