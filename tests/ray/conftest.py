"""A real Ray cluster of three nodes, two of them with a fake GPU, with a token and the Job API; one for all tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.variables import variables
from orchestrator.plan.model import Plan
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, run_here
from tests.slurm.faults import begun_late

MEMORY = 100 << 20  # of an object store
LONG = ("count: 40", "count: 400", "{name: euler, steps: 2}", "{name: euler, steps: 60}")
MADE = re.compile(r"^(\S+ \S+) done in ([\d.]+) s by process \d+, blocks \[([\d, ]+)\]$", re.MULTILINE)
HANDS_OFF = ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS")  # what would reach into the cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting Ray takes long on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@contextlib.contextmanager
def ray_of_our_own() -> Iterator[str]:
    """A folder for Ray's files, and a token, for a while. Ray reads its settings when it is imported, so here that must
    come later.
    """
    assert "ray" not in sys.modules
    folder = tempfile.mkdtemp(prefix="nbray-", dir="/tmp")  # short: the names of sockets are
    os.makedirs(f"{folder}/ray")
    ours = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    kept = {name: os.environ.pop(name) for name in HANDS_OFF if name in os.environ}
    try:
        with variables({**ours, **token}):
            yield folder
    finally:
        os.environ.update(kept)
        shutil.rmtree(folder, ignore_errors=True)


def retried(start: Callable[[], Any]) -> Any:
    """Ray gives a start 30 s, which a busy machine may need for itself; so once more."""
    try:
        return start()
    except Exception:  # noqa: BLE001  (whatever was too slow)
        time.sleep(5)
        return start()


@contextlib.contextmanager
def started() -> Iterator[Any]:
    """The head has the Job API and no GPU; `.nodes` are the two others."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": MEMORY, "include_dashboard": True}
    made = retried(lambda: Cluster(initialize_head=True, head_node_args={**head, "dashboard_port": 0}))
    try:
        made.nodes = [node(made, f"n{number}") for number in (1, 2)]
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[str]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with ray_of_our_own() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(ray_environment: str) -> Iterator[Any]:
    with started() as made:
        yield made


def node(cluster: Any, name: str) -> Any:
    """Another node with a GPU. Its packages of code are its own, as on a machine of its own: the first job on a node
    unpacks them anew, and would take them from under the workers of the others.
    """
    own = {"resources": {name: 1}, "runtime_env_dir_name": f"packages_{name}"}
    return retried(lambda: cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY, **own))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The longer sweep, done in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    text = TINY
    for old, new in zip(LONG[::2], LONG[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    (folder / "sweep.yaml").write_text(text)
    return run_here(folder / "sweep.yaml", folder / "store")


def made_again(planned: Plan, store: Store) -> list[str]:
    """Blocks of samples and features that were started after they had been published, as logs tell."""
    found, lines = [], 0
    for digest, task in planned.tasks.items():
        log = store.logs / f"{digest}.log"
        if task.kind in ("sample", "extract") and log.exists():
            for line in MADE.finditer(log.read_text()):
                lines += 1
                stamp, seconds, blocks = line.groups()
                names = [block_name(digest, int(number)) for number in blocks.split(",")]
                found += [f"{digest} {line.group()}" for name in names if begun_late(store, name, stamp, seconds)]
    assert lines
    return found


def processes(word: bytes, folder: str) -> list[int]:
    """Processes with this word in their command, on the cluster whose files are in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(each.startswith(word) for each in words) and os.readlink(entry / "cwd").startswith(folder):
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a call returns something true; return that."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
    return found
