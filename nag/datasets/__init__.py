"""Data sets, one a file; what one is, `dataset.py` says."""

from nag.datasets.dataset import ArraySplit as ArraySplit
from nag.datasets.dataset import Split as Split
