"""The error of a place that cannot be reached."""

from __future__ import annotations


class Unreachable(ConnectionError):
    """What keeps a URL from being read: no network, no credentials, no such bucket, a package that is missing."""
