"""The error for a path or URL that cannot be reached."""

from __future__ import annotations


class Unreachable(ConnectionError):
    """A URL cannot be read: no network, no credentials, no such bucket, or a missing package."""
