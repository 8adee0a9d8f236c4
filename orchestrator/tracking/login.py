"""Who we are to an MLflow server: the headers that MLflow's client would send, from MLflow's own variables and file."""

from __future__ import annotations

import base64
import configparser
import os
import urllib.parse
from pathlib import Path


def workspace() -> str | None:
    """The workspace of a shared server that runs are written to; None: its default one."""
    return os.environ.get("MLFLOW_WORKSPACE") or None


def in_workspace(link: str) -> str:
    """An address of MLflow's page, opened in that workspace."""
    name = workspace()
    return f"{link}{'&' if '?' in link else '?'}workspace={urllib.parse.quote(name, safe='')}" if name else link


def headers(uri: str) -> dict[str, str]:
    """User and password of the address, or of MLFLOW_TRACKING_USERNAME and _PASSWORD, or of ~/.mlflow/credentials; else
    MLFLOW_TRACKING_TOKEN; and MLFLOW_WORKSPACE.
    """
    found = {"X-MLFLOW-WORKSPACE": name} if (name := workspace()) else {}
    parts = urllib.parse.urlsplit(uri)
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    if not user:
        kept = _kept()
        user, password = (
            os.environ.get(name) or kept.get(name.lower(), "")
            for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        )
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        return found | {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    return found | {"Authorization": f"Bearer {token}"} if token else found


def _kept() -> dict[str, str]:
    """The section [mlflow] of ~/.mlflow/credentials."""
    parser = configparser.ConfigParser()
    try:
        parser.read(Path("~/.mlflow/credentials").expanduser())
        return dict(parser["mlflow"]) if "mlflow" in parser else {}
    except (OSError, configparser.Error, UnicodeDecodeError, RuntimeError):
        return {}
