"""A store on S3, as a server of moto on this machine plays it: the whole sweep, and what an object store does otherwise
than a folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.store.layout import block_name
from orchestrator.store.store import MARKER, Store
from orchestrator.tasks.context import HeldElsewhere
from orchestrator.tasks.lease import lease
from tests.orchestrator.conftest import TINY, Ran, metrics, nagbench, run_here
from tests.orchestrator.store.conftest import forget

pytestmark = pytest.mark.outside

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto is not installed")


@pytest.fixture(scope="module")
def swept(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """The tiny sweep, run by two worker processes on one store."""
    sweep = tmp_path_factory.mktemp("s3") / "sweep.yaml"
    sweep.write_text(TINY)
    options = ("--tracking", "none", "--device", "cpu", "--workers", "2")
    done = nagbench("run", sweep, "--store", f"{bucket}/swept", *options)
    assert done.returncode == 0, done.stderr
    return sweep, Store(f"{bucket}/swept")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The requests of this process to S3: method and key."""
    from s3fs import S3FileSystem

    made: list[tuple[str, str]] = []
    plain = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        made.append((method, options.get("Key") or options.get("Prefix") or ""))
        return await plain(self, method, *arguments, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    return made


def test_the_whole_sweep(finished: Ran, swept: tuple[Path, Store]) -> None:
    sweep, store = swept
    again = run_here(sweep, store.url)
    assert again.backend is None
    assert metrics(again.document()) == metrics(finished.document())


def test_commands(finished: Ran, swept: tuple[Path, Store]) -> None:
    sweep, store = swept
    where = ("--store", store.url, "--tracking", "none", "--json")
    status = json.loads(nagbench("status", sweep, *where).stdout)
    assert status["cells"] == {"total": 8, "done": 8, "failed": 0, "missing": 0}
    report = nagbench("report", sweep, *where)
    assert report.returncode == 0, report.stderr
    assert metrics(json.loads(report.stdout)) == json.loads(json.dumps(metrics(finished.document())))


def test_a_start_reads_little(swept: tuple[Path, Store], calls: list[tuple[str, str]]) -> None:
    """A run with nothing to do reads the records of the scores, once; no block, no network."""
    sweep, store = swept
    goals = run_here(sweep, store.url).plan.goals
    read = [key for method, key in calls if method == "get_object"]
    assert sum("/records/score/" in key for key in read) == len(goals)
    assert not [key for key in read if "/blocks/" in key or "/files/" in key]
    assert len(read) <= len(goals) + 3
    assert len([method for method, _ in calls if method.startswith("list")]) <= 15


def test_many_questions_at_once(swept: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for what is done of a plan run in parallel: here each takes at least 0.1 s."""
    from s3fs import S3FileSystem

    from orchestrator.plan.progress import Done, missing

    sweep, store = swept
    planned = run_here(sweep, store.url).plan
    plain = S3FileSystem._lsdir
    under_way, most = [], [0]

    async def slow(self: Any, *arguments: Any, **options: Any) -> Any:
        import asyncio

        under_way.append(arguments)
        most[0] = max(most[0], len(under_way))
        await asyncio.sleep(0.1)
        found = await plain(self, *arguments, **options)
        under_way.pop()
        return found

    score = next(task.record_name for task in planned.tasks.values() if task.kind == "score")
    kept = store.read(score)
    store.delete(score)
    monkeypatch.setattr(S3FileSystem, "_lsdir", slow)
    done = Done(store)
    assert list(missing(planned, done).values()) == [None]
    assert len(done._blocks) == 24
    assert most[0] > 4
    monkeypatch.undo()
    store.create(score, kept)


def test_the_first_writer_wins(bucket: str) -> None:
    store = Store(f"{bucket}/claims")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create("claim", b"%d" % number * 1000), range(32)))
    assert won.count(True) == 1
    assert store.read("claim") == b"%d" % won.index(True) * 1000


def test_another_process_is_seen_at_once(bucket: str) -> None:
    """Neither listings nor missing files are cached."""
    store = Store(f"{bucket}/seen")
    store.open()
    assert store.list("records") == []
    assert not store.exists("records/a.json")
    code = "import sys; from orchestrator.store.store import Store; Store(sys.argv[1]).create('records/a.json', b'{}')"
    subprocess.run([sys.executable, "-c", code, store.url], check=True, timeout=60)
    assert store.list("records") == ["a.json"]
    assert store.exists("records/a.json")
    store.delete("records/a.json")
    assert store.list("records") == []
    store.delete("records/a.json")  # already gone


def test_a_lease(bucket: str) -> None:
    store = Store(f"{bucket}/leases")
    store.open()
    with lease(store, "d"), pytest.raises(HeldElsewhere), lease(Store(store.url), "d"):
        pass
    with lease(store, "d"):
        assert len(store.list("leases/d")) == 1


def test_a_damaged_object_is_set_aside_and_made_again(finished: Ran, swept: tuple[Path, Store]) -> None:
    sweep, store = swept
    tasks = finished.plan.tasks.values()
    score = next(t for t in tasks if t.kind == "score" and t.params["features"])
    name = block_name(score.params["features"], 0)
    whole = store.read(name)
    store.fs.pipe_file(store.path(name), whole[: len(whole) // 2])
    with pytest.raises(CorruptFile, match="cut off or damaged"):
        store.read_arrays(name)
    assert not store.exists(name)
    assert len(store.list(f"quarantine/{name.rpartition('/')[0]}")) == 1
    store.delete(score.record_name)
    ran = run_here(sweep, store.url)
    assert not ran.failed
    assert store.read_arrays(name)[0].keys() == finished.store.read_arrays(name)[0].keys()
    assert metrics(ran.document()) == metrics(finished.document())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`elsewhere(NAME=value)`: other environment variables, for this test; None removes one."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        forget()

    yield change
    forget()


def test_no_bucket(bucket: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"s3://absent/store cannot be written: .*bucket.*{MARKER}"):
        Store("s3://absent/store").open()


@pytest.mark.parametrize("ask", ["exists", "read", "list", "delete", "remove"])
def test_no_server(bucket: str, ask: str, elsewhere: Callable[..., None]) -> None:
    elsewhere(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    with pytest.raises(EnvironmentProblem, match="store s3://bucket/x cannot be reached: Could not connect"):
        getattr(Store("s3://bucket/x"), ask)("name")


def test_no_credentials(bucket: str, elsewhere: Callable[..., None], tmp_path: Path) -> None:
    elsewhere(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="store s3://bucket/x cannot be reached: Unable to locate credentials"):
        Store("s3://bucket/x").open()
    (tmp_path / "sweep.yaml").write_text(TINY)
    done = nagbench("status", tmp_path / "sweep.yaml", "--store", "s3://bucket/x", env=dict(os.environ))
    assert done.returncode == 3
    assert "Unable to locate credentials" in done.stderr
    assert "Traceback" not in done.stderr
