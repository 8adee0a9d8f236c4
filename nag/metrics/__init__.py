"""Metrics, one per file; `metric.py` defines what a metric is."""

from nag.metrics.metric import Metric as Metric
from nag.metrics.metric import Score as Score
from nag.metrics.metric import Scores as Scores
from nag.metrics.metric import Shown as Shown
from nag.metrics.metric import plain as plain
from nag.metrics.metric import rows as rows
