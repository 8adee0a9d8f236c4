"""Slurm clusters for tests: one for the whole session, and others with settings of their own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestrator.conftest import Ran, run_here
from tests.slurm.cluster import Cluster, absent, cluster
from tests.slurm.configuration import Settings
from tests.slurm.running import SMALL


@contextlib.contextmanager
def up(settings: Settings) -> Iterator[Cluster]:
    """A cluster in a folder of short name (sockets are in it). Skips the test where there can be none."""
    reason = absent(settings.accounting)
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # other users submit too
    try:
        with cluster(folder / "c", settings) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def whole_session() -> Iterator[Cluster]:
    with up(Settings(max_array_size=21)) as made:
        yield made


@pytest.fixture
def slurm(whole_session: Cluster) -> Iterator[Cluster]:
    """The session's cluster, with accounting, idle before and after the test."""
    yield whole_session
    whole_session.run("scancel", "--user=root")
    whole_session.wait_idle()


@pytest.fixture
def slurm_with() -> Iterator[Callable[[Settings], Cluster]]:
    """`slurm_with(Settings(preempt=True))`: a cluster for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(up(settings))


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The small sweep, run once without Slurm. Nobody may change its store: copy it."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "sweep.yaml").write_text(SMALL)
    return run_here(folder / "sweep.yaml", folder / "store")
