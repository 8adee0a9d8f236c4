"""Why MLflow cannot be written: one sentence for any error of a database, MLflow or the network, with the fix."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

from orchestrator.display import address
from orchestrator.errors import EnvironmentProblem

PACKAGES = {  # by the module that a database or a place of artifacts needs
    "psycopg2": "psycopg2-binary",
    "psycopg": "'psycopg[binary]'",
    "MySQLdb": "mysqlclient",
    "pymysql": "PyMySQL",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob azure-identity",
}
CERTIFICATE = re.compile(r"certificate verify failed: ([^(\n]+)", re.IGNORECASE)
LATER = "Nothing is lost: run the command again later, and it writes what is missing."
SHOWN = 300  # characters of a server's own words


def problem(uri: str, error: BaseException, waited_s: float) -> EnvironmentProblem:
    """waited_s: how long a silent server was waited for."""
    causes = list(_chain(error))
    text = " ".join(str(each) for each in causes)
    names = {type(each).__name__ for each in causes}
    words = _of_database(uri, text, names) or _of_network(text, names, causes, waited_s)
    if not words:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        words = f"{type(error).__name__}: {first[:200]}"
    return EnvironmentProblem(f"MLflow at {address(uri)}: {words}")


def _of_database(uri: str, text: str, names: set[str]) -> str:
    if "database is locked" in text or "database is busy" in text:
        return f"the database is locked by another program. Close it. {LATER}"
    if "readonly database" in text or "read-only" in text.lower():
        return "the database is read-only here. Make it and its folder writable, or name another file with --tracking."
    if "file is not a database" in text or "malformed" in text:
        return "the file is not a database, or is damaged. Remove it: the next run or report creates it again."
    if "out-of-date database schema" in text:
        return f"the database was made by an older MLflow. Run: mlflow db upgrade {address(uri)} (or remove the file)."
    if "unable to open database file" in text or names & {"PermissionError", "IsADirectoryError", "NotADirectoryError"}:
        return "it cannot be opened or created. Check its path and permissions, or name another file with --tracking."
    if "No space left" in text or "disk is full" in text:
        return "the disk is full. Make room, or name another place with --tracking."
    if re.search(r"password authentication failed|no password supplied|Access denied for user", text):
        return "the database refuses this user or password. Check the address."
    if found := re.search(r'database "?\'?([\w-]+)\'?"? does not exist|Unknown database \'([\w-]+)\'', text):
        return f"there is no database {found[1] or found[2]!r}. Create it first."
    return ""


def _of_network(text: str, names: set[str], causes: list[BaseException], waited_s: float) -> str:
    status = next((number for each in causes if (number := _status(each))), None)
    if absent := next((each for each in causes if isinstance(each, ImportError)), None):
        module = (absent.name or "mlflow").partition(".")[0]
        return f"{module} cannot be imported ({absent}). Install it: pip install {PACKAGES.get(module, module)}."
    if names & {"gaierror", "NameResolutionError"} or "could not translate host name" in text:
        return "the host name is unknown. Check the address."
    if names & {"ConnectionRefusedError"} or "Connection refused" in text:
        return f"nothing listens there. Start the server, or use --tracking none. {LATER}"
    if certificate := CERTIFICATE.search(text):
        fix = "Name the file of its authority in MLFLOW_TRACKING_SERVER_CERT_PATH."
        return f"its certificate is not trusted: {certificate[1].strip()}. {fix}"
    if names & {"TimeoutError", "ReadTimeout", "ConnectTimeout", "ReadTimeoutError"} or "timeout expired" in text:
        return f"no answer within {waited_s:.0f} s. Check the address and the network, or use --tracking none."
    if found := re.search(r"[Ww]orkspace '([^']+)' (?:was )?not found", text):
        return (
            f"the server has no workspace {found[1]!r}. Correct MLFLOW_WORKSPACE, or let its administrator create it."
        )
    if status in (401, 403):
        return (
            f"the server refuses (HTTP {status}). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN; a 403 may also mean that it does not serve this host name."
        )
    if "not in a valid JSON format" in text:
        return "what answers there is not an MLflow server. Check the address."
    said = _said(causes)
    if status == 429:
        return f"the server asks for fewer requests (HTTP 429{said}). {LATER}"
    if status and status >= 500:
        return f"the server is in trouble (HTTP {status}{said}). {LATER}"
    if status:
        return f"the server answers HTTP {status}{said}: it may not be an MLflow server. Check its address and log."
    broken = re.search(r"Connection (aborted|reset)|RemoteDisconnected|server closed the connection", text)
    if broken or names & {"RemoteDisconnected", "ConnectionResetError"}:
        return f"the server broke the connection. {LATER}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of MLflow or requests."""
    response = getattr(error, "response", None)
    if response is not None and getattr(response, "status_code", None):
        return int(response.status_code)
    match = re.search(r"(?:failed with error code|status(?: code)?|error code|too many) (\d{3})\b", str(error))
    if match:
        return int(match[1])
    code = getattr(error, "get_http_status_code", None)
    return int(code()) if code is not None and type(error).__name__ == "RestException" else None


def _said(causes: list[BaseException]) -> str:
    """`: <what the server says>`, whole; "" for a page of HTML, or if it says nothing."""
    for each in causes:
        body = re.search(r"Response body: '(.*)'", str(each), re.DOTALL)
        message = getattr(each, "json", {}).get("message") if type(each).__name__ == "RestException" else None
        if body and body[1].startswith("{"):
            with contextlib.suppress(ValueError):
                message = json.loads(body[1]).get("message")
        words = " ".join(str(message or (body[1] if body else "")).split())
        if words and not words.startswith("<"):
            return f": {words[:SHOWN]}"
    return ""
