"""Connect to a Ray cluster by its address, or to a private instance; never to whatever cluster Ray detects. A process
has one connection at a time.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.ray.private import Private
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.execution.code_snapshot import snapshot
from orchestrator.execution.variables import variables

ANSWER_S = 5.0
SERIES = "2.60"  # of Ray; as in pyproject.toml. This file and private.py use private names of that version.
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a job, which has the code already
ADDRESS = re.compile(r"\[?(?P<host>[A-Za-z0-9_.:-]+?)\]?:(?P<port>\d{1,5})")
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
TOKEN_NEEDED = re.compile(r"Unauthenticated|authentication token|AuthenticationError|rpc_code: 16")


class Connection:
    """address: HOST:PORT; None starts a private instance with `cpus` CPUs and the GPUs of this machine.

    Raises BadInput for an invalid address, EnvironmentProblem if the connection fails.
    """

    def __init__(self, address: str | None, cpus: int = 1, token_file: str | None = None) -> None:
        import_ray()
        import ray

        if ray.is_initialized():
            raise EnvironmentProblem("this process is already connected to a Ray cluster")
        self.kept = contextlib.ExitStack()
        try:
            if address is None:
                private = Private(cpus)
                self.kept.callback(private.close)
                self.address, token = private.address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": private.token}
            else:
                require_listening(address)
                self.address, token = address, token_of(token_file)
            once = {"RAY_gcs_server_port_wait_time_s": "1"}  # one attempt, of 40 s at most
            self.kept.enter_context(ray_environment({**token, **once, "RAY_USAGE_STATS_ENABLED": "0"}))
            self.kept.callback(ray.shutdown)
            self._connect(private=address is None)
        except BaseException:
            self.close()
            raise

    def _connect(self, private: bool) -> None:
        import ray
        from ray._private import ray_constants

        handler, cluster = signal.getsignal(signal.SIGTERM), ray_constants.ENABLE_RAY_CLUSTER
        with tempfile.TemporaryDirectory() as folder:
            code = {} if private or IN_JOB in os.environ else {"working_dir": str(snapshot(Path(folder)))}
            try:
                ray_constants.ENABLE_RAY_CLUSTER = not private  # if False, "localhost" is 127.0.0.1
                ray.init(
                    address=self.address,
                    namespace=f"nagbench-{uuid.uuid4().hex[:8]}",
                    runtime_env=code,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            except Exception as error:
                raise EnvironmentProblem(connection_failure(self.address, error)) from error
            finally:
                ray_constants.ENABLE_RAY_CLUSTER = cluster
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)  # Ray installs its own
        _silence()

    def close(self) -> None:
        self.kept.close()


def import_ray() -> None:
    """Import Ray. Raises EnvironmentProblem if it is not installed, or in another version than SERIES."""
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem("Ray is not installed here: pip install 'nagbench[ray]'") from error
    if not f"{ray.__version__}.".startswith(f"{SERIES}."):
        raise EnvironmentProblem(
            f"Ray {ray.__version__} is installed here, but nagbench and the cluster need {SERIES}: "
            "pip install 'nagbench[ray]'"
        )


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
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" not in os.environ and (given or (Path.home() / ".ray" / "auth_token").exists()):
        return {"RAY_AUTH_MODE": "token"}
    return {}


@contextlib.contextmanager
def ray_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while, for Ray too, which has read the old ones if it was imported before."""
    try:
        with variables(changes):
            _reread()
            yield
    finally:
        _reread()


def _reread() -> None:
    """Make Ray read its authentication settings again. It has no public function for that."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _silence() -> None:
    """Stop Ray from printing about workers that died: the engine reports them."""
    from ray._private import worker

    worker.print_to_stdstream = _nothing


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


def connection_failure(address: str, error: BaseException) -> str:
    """Why the connection failed, in a line."""
    chain = []
    each: BaseException | None = error
    while each is not None:
        chain.append(f"{type(each).__name__}: {each}")
        each = each.__cause__ or each.__context__
    text = "\n".join(chain)
    versions = VERSIONS.findall(text)
    if len(versions) >= 2:
        (ray, python), (our_ray, our_python) = versions[:2]
        return (
            f"the Ray cluster at {address} has Ray {ray} on Python {python}, here is Ray {our_ray} on Python "
            f"{our_python}: both must be equal"
        )
    if TOKEN_NEEDED.search(text):
        return token_problem(f"the Ray cluster at {address}", "the site file")
    return f"no connection to the Ray cluster at {address}: {first_line(error)}. Is this machine one of its nodes?"


def token_problem(cluster: str, site: str) -> str:
    """Why a cluster rejects us, and what to do. site: the file that can name a token."""
    problem = "does not accept our token" if os.environ.get("RAY_AUTH_MODE") == "token" else "needs a token"
    return (
        f"{cluster} {problem}: put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN, or name a file that "
        f"holds it as token_file in {site}"
    )


def first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
