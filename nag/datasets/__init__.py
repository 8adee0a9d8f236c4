"""Data sets, one per file; `dataset.py` defines what a data set is."""

from nag.datasets.dataset import ArraySplit as ArraySplit
from nag.datasets.dataset import Split as Split
