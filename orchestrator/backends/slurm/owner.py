"""Whose a wave is: a store may be a group's, and what one user queued no other user cancels."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from typing import Any


def owner() -> str:
    """The user's name, as part of a job's name; for a user without a name, the number."""
    try:
        return re.sub(r"[^A-Za-z0-9_-]", "_", pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # no passwd entry
        return f"uid{os.getuid()}"


def is_mine(record: Mapping[str, Any]) -> bool:
    """Whether this user queued a wave. record: the wave's; one without a user is from a time when stores had one."""
    return bool(record.get("uid", os.getuid()) == os.getuid())
