"""To a cluster by its address, or to a private instance; never to whatever Ray finds. One process has one connection at
a time.
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
SERIES = "2.60"  # of Ray: this file and private.py use names of it that other versions do not have; pyproject.toml too
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a job, which has its code already
ADDRESS = re.compile(r"\[?(?P<host>[A-Za-z0-9_.:-]+?)\]?:(?P<port>\d{1,5})")
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
TOKEN_NEEDED = re.compile(r"Unauthenticated|authentication token|AuthenticationError|rpc_code: 16")


class Connection:
    """`address` None: a private instance with `cpus` CPUs and the GPUs of this machine.

    Raises BadInput for what is no address, EnvironmentProblem where there can be no connection.
    """

    def __init__(self, address: str | None, cpus: int = 1, token_file: str | None = None) -> None:
        import_ray()
        import ray

        if ray.is_initialized():
            raise EnvironmentProblem("this process has a connection to a Ray cluster already")
        self.kept = contextlib.ExitStack()
        try:
            if address is None:
                private = Private(cpus)
                self.kept.callback(private.close)
                self.address, token = private.address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": private.token}
            else:
                check_answers(address)
                self.address, token = address, token_of(token_file)
            once = {"RAY_gcs_server_port_wait_time_s": "1"}  # one attempt, of 40 s at most
            self.kept.enter_context(environment({**token, **once, "RAY_USAGE_STATS_ENABLED": "0"}))
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
                ray_constants.ENABLE_RAY_CLUSTER = not private  # where it is not, "localhost" is 127.0.0.1
                ray.init(
                    address=self.address,
                    namespace=f"nagbench-{uuid.uuid4().hex[:8]}",
                    runtime_env=code,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            except Exception as error:
                raise EnvironmentProblem(failure(self.address, error)) from error
            finally:
                ray_constants.ENABLE_RAY_CLUSTER = cluster
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
        _silence()

    def close(self) -> None:
        self.kept.close()


def import_ray() -> None:
    """Raises EnvironmentProblem where Ray is not here, or another one than this file knows."""
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem("Ray is not installed here: pip install 'nagbench[ray]'") from error
    if not f"{ray.__version__}.".startswith(f"{SERIES}."):
        raise EnvironmentProblem(
            f"Ray {ray.__version__} is installed here, and nagbench works with {SERIES}, as must its cluster: "
            "pip install 'nagbench[ray]'"
        )


def check_answers(address: str) -> None:
    """Raises BadInput for what is no address, EnvironmentProblem where nothing listens."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise BadInput(f"{address!r} is no address of a Ray cluster; one is HOST:6379, as `ray start --head` says it")
    try:
        socket.create_connection((found["host"], int(found["port"])), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentProblem(f"no Ray cluster answers at {address}: {reason}") from error


def token_of(file: str | None) -> dict[str, str]:
    """The environment in which Ray shows a token, where there is one; else the environment as it is."""
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
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """These variables for a while, known to Ray too, which has read the old ones if it was imported before."""
    try:
        with variables(changes):
            _reread()
            yield
    finally:
        _reread()


def _reread() -> None:
    """Let Ray look again at how it authenticates. No public function of it does."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _silence() -> None:
    """What Ray would print into our output about workers that died, the engine says in its own words."""
    from ray._private import worker

    worker.print_to_stdstream = _nothing


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


def failure(address: str, error: BaseException) -> str:
    """Why there is no connection, in a line."""
    said = []
    each: BaseException | None = error
    while each is not None:
        said.append(f"{type(each).__name__}: {each}")
        each = each.__cause__ or each.__context__
    text = "\n".join(said)
    versions = VERSIONS.findall(text)
    if len(versions) >= 2:
        (ray, python), (our_ray, our_python) = versions[:2]
        return (
            f"the Ray cluster at {address} has Ray {ray} on Python {python}, here is Ray {our_ray} on Python "
            f"{our_python}: both must be equal"
        )
    if TOKEN_NEEDED.search(text):
        wanted = "does not take our token" if os.environ.get("RAY_AUTH_MODE") == "token" else "wants a token"
        return (
            f"the Ray cluster at {address} {wanted}: put its own into ~/.ray/auth_token or RAY_AUTH_TOKEN, or name the "
            "file that has it as token_file in the site"
        )
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"no connection to the Ray cluster at {address}: {first}. Is this machine one of its nodes?"
