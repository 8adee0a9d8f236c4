"""Guidance methods, one per file; `terms.py` defines what a guidance is."""

from nag.guidance.terms import Guidance as Guidance
from nag.guidance.terms import Interval as Interval
from nag.guidance.terms import Term as Term
