"""Guidance methods, one a file; what they are made of is in `terms.py`."""

from nag.guidance.terms import Guidance as Guidance
from nag.guidance.terms import Interval as Interval
from nag.guidance.terms import Term as Term
