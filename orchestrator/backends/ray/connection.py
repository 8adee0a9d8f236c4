"""Connect to a Ray cluster by its address, or to a private instance; never to whatever cluster Ray detects."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.backends.ray.child import Child
from orchestrator.backends.ray.private import Private
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.execution.code_snapshot import snapshot

ANSWER_S = 5.0
CONNECTED_S = 180.0  # on a very busy machine; Ray itself gives up after 40 s
DRIVER = "orchestrator.backends.ray.driver"
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a job, which has the code already
ADDRESS = re.compile(r"\[?(?P<host>[A-Za-z0-9_.:-]+?)\]?:(?P<port>\d{1,5})")
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
TOKEN_NEEDED = re.compile(r"Unauthenticated|authentication token|AuthenticationError|rpc_code: 16")
MODE = "RAY_AUTH_MODE"


class Connection:
    """address: HOST:PORT; None starts a private instance with `cpus` CPUs and the GPUs of this machine. python: the one
    that imports Ray, by default this one.

    Raises BadInput for an invalid address, EnvironmentProblem if the connection fails.
    """

    def __init__(
        self, address: str | None, cpus: int = 1, token_file: str | None = None, python: str | None = None
    ) -> None:
        self.kept, self.python = contextlib.ExitStack(), python
        try:
            if address is None:
                private = Private(cpus, python)
                self.kept.callback(private.close)
                self.address = private.address
                tries: Sequence[Mapping[str, str]] = [private.environment]
            else:
                require_listening(address)
                self.address, tries = address, authentications(token_file)
            with tempfile.TemporaryDirectory() as folder:
                code = None if address is None or IN_JOB in os.environ else str(snapshot(Path(folder)))
                self.child, self.first = self._connect(tries, code)
        except BaseException:
            self.close()
            raise

    def _connect(self, tries: Sequence[Mapping[str, str]], code: str | None) -> tuple[Child, dict[str, Any]]:
        """Start a driver, and the next one with a token if the cluster needs one. Returns it and its first message."""
        for changes in tries:
            once = {"RAY_gcs_server_port_wait_time_s": "1"}  # one attempt, of 40 s at most
            with contextlib.ExitStack() as failed:
                child = Child(DRIVER, {**changes, **once}, self.python)
                failed.callback(child.close)
                child.send({"address": self.address, "code": code})
                answer = child.receive(CONNECTED_S) or {"errors": [child.said() or "the driver does not answer"]}
                if "nodes" in answer:
                    self.kept.push(failed.pop_all())
                    return child, answer
            if "problem" in answer:
                raise EnvironmentProblem(answer["problem"])
            if not TOKEN_NEEDED.search("\n".join(answer["errors"])):
                break
        raise EnvironmentProblem(connection_failure(self.address, answer["errors"], changes.get(MODE)))

    def send(self, **order: Any) -> None:
        self.child.send(order)

    def receive(self, timeout_s: float) -> list[dict[str, Any]]:
        """The events since the last call; waits up to `timeout_s` for the first one. Raises EnvironmentProblem if the
        connection is lost: Ray then ends the driver.
        """
        events = []
        message = self.child.receive(timeout_s)
        while message is not None:
            events.append(message)
            message = self.child.receive(0)
        if self.child.ended and not events:
            raise EnvironmentProblem(
                f"the Ray cluster at {self.address} is gone: its head does not answer any more. What was published is "
                "kept; once the cluster is there again, run the same command"
            )
        return events

    def close(self) -> None:
        self.kept.close()


def require_listening(address: str) -> None:
    """Raise BadInput for an invalid address, EnvironmentProblem if nothing listens there."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise BadInput(
            f"{address!r} is not a valid address of a Ray cluster. Write HOST:6379, as `ray start --head` prints it"
        )
    try:
        socket.create_connection((match["host"], int(match["port"])), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentProblem(f"no Ray cluster answers at {address}: {reason}") from error


def token_of(file: str | None) -> dict[str, str]:
    """The environment variables with which Ray sends a token; none if there is no token."""
    if file is not None:
        path = Path(file).expanduser()
        try:
            path.read_bytes()
        except OSError as error:
            raise BadInput(f"token_file {path}: {error.strerror}") from error
        return {MODE: "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if MODE not in os.environ and (given or (Path.home() / ".ray" / "auth_token").exists()):
        return {MODE: "token"}
    return {}


def authentications(file: str | None) -> list[dict[str, str]]:
    """The environments to connect with, one after the other. A token that is left from another cluster would kill all
    actors on one that asks for none, so it is used only where it is asked for.
    """
    token = token_of(file)
    if not token and MODE in os.environ:
        return [{}]
    return [{MODE: "disabled"}, *([token] if token else [])]


def connection_failure(address: str, errors: Sequence[str], mode: str | None = None) -> str:
    """Why the connection failed, in a line. errors: Ray's, the first and its causes."""
    text = "\n".join(errors)
    versions = VERSIONS.findall(text)
    if len(versions) >= 2:
        (ray, python), (our_ray, our_python) = versions[:2]
        return (
            f"the Ray cluster at {address} has Ray {ray} on Python {python}, here is Ray {our_ray} on Python "
            f"{our_python}: both must be equal. Name a Python with the cluster's Ray as `python` in the site file"
        )
    if TOKEN_NEEDED.search(text):
        return token_problem(f"the Ray cluster at {address}", "the site file", mode)
    words = first_line(errors[0].partition(": ")[2] or errors[0])
    return f"no connection to the Ray cluster at {address}: {words}. Is this machine one of its nodes?"


def token_problem(cluster: str, site: str, mode: str | None = None) -> str:
    """Why a cluster rejects us, and what to do. site: the file that can name a token."""
    sent = (mode or os.environ.get(MODE)) == "token"
    problem = "does not accept our token" if sent else "needs a token"
    return (
        f"{cluster} {problem}: put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN, or name a file that "
        f"holds it as token_file in {site}"
    )


def first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), text)
