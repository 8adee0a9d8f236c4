"""A store on a real server of S3 behind a proxy that loses answers, breaks connections, refuses and lags."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.backends import local_doctor
from orchestrator.errors import EnvironmentProblem, TransientError
from orchestrator.retention.garbage import files, garbage, remove
from orchestrator.store import remote
from orchestrator.store.store import MARKER, Store
from orchestrator.tasks.context import HeldElsewhere
from orchestrator.tasks.lease import lease
from tests.orchestrator.conftest import TINY, Ran, changed, run_here
from tests.orchestrator.proxy import Proxy, Request

pytestmark = pytest.mark.outside

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto is not installed")


def is_put(request: Request) -> bool:
    return request.command == "PUT" and MARKER not in request.key


def lose(request: Request) -> None:
    """The server does it, and the answer gets lost."""
    request.forwarded()
    request.reset()


def fail(request: Request) -> None:
    """The server does it, and a gateway says that it failed."""
    request.forwarded()
    request.answer(502, {}, b"")


@pytest.fixture
def store(bucket: str, proxy: Proxy, request: pytest.FixtureRequest) -> Store:
    opened = Store(f"{bucket}/{request.node.name.translate(str.maketrans('[]', '--'))}")
    opened.open()
    return opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT_S", 0.5)


@pytest.mark.parametrize("fault", [lose, fail])
def test_a_lease_whose_answer_was_lost_is_ours(store: Store, proxy: Proxy, fault: object) -> None:
    met = proxy.times(1, lose if fault is lose else fail, is_put)
    with lease(store, "d"):
        assert len(met) == 1
        with pytest.raises(HeldElsewhere), lease(Store(store.url), "d"):
            pass
    assert store.list("leases/d") == []


def test_a_lease_whose_answers_were_all_lost_is_ours_later(store: Store, proxy: Proxy, impatient: None) -> None:
    """The engine gave up, though the lease was written; it does not wait for itself."""
    met = proxy.times(1, lose, is_put)
    down = proxy.faults
    down.append(lambda request: request.refuse(500, "InternalError", "We broke") if met else None)
    with pytest.raises(TransientError, match="The trouble lasted for"), lease(store, "d"):
        pass
    down.clear()
    assert store.list("leases/d") == ["000001.json"]
    with lease(store, "d"):
        assert store.list("leases/d") == ["000001.json", "000002.json"]
        code = (
            "import sys\nfrom orchestrator.store.store import Store\nfrom orchestrator.tasks.lease import lease\n"
            "from orchestrator.tasks.context import HeldElsewhere\n"
            "try:\n    with lease(Store(sys.argv[1]), 'd'):\n        pass\nexcept HeldElsewhere:\n    sys.exit(7)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, store.url], timeout=120, check=False).returncode == 7
    assert store.list("leases/d") == []


def test_only_the_owner_of_a_claim_has_it(store: Store, proxy: Proxy) -> None:
    proxy.times(1, lose, is_put)
    assert store.create("claim", b"mine")
    assert not store.create("claim", b"another's")
    assert store.read("claim") == b"mine"


def without_conditions(request: Request) -> None:
    del request.headers["If-None-Match"]


def not_implemented(request: Request) -> None:
    if "If-None-Match" in request.headers:
        request.refuse(501, "NotImplemented", "A header you provided implies functionality that is not implemented")


@pytest.mark.parametrize("fault", [without_conditions, not_implemented])
def test_a_server_without_conditional_writes_is_refused(bucket: str, proxy: Proxy, fault: object) -> None:
    proxy.faults.append(without_conditions if fault is without_conditions else not_implemented)
    url = f"{bucket}/unconditional-{getattr(fault, '__name__', '')}"
    words = "If-None-Match: of two processes that write one file, the last would win"
    with pytest.raises(EnvironmentProblem, match=words):
        Store(url).open()
    (row,) = local_doctor._store(url)
    assert (row.state, words in row.detail) == ("missing", True)


def test_uploads_in_parts_are_conditional_too(store: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JOINED_BYTES", 100)
    assert store.create("files/large", b"x" * 200)

    def joined_without(request: Request) -> None:
        if request.command == "POST":
            del request.headers["If-None-Match"]

    proxy.faults.append(joined_without)
    with pytest.raises(EnvironmentProblem, match="for large files, this server ignores If-None-Match"):
        Store(store.url).create("files/larger", b"x" * 200)
    assert store.list("files") == ["large"]


def test_a_reset_in_the_middle_of_an_upload(store: Store, proxy: Proxy) -> None:
    def half(request: Request) -> None:
        request.rfile.read(int(request.headers["Content-Length"]) // 2)
        request.reset()

    data = bytes(range(256)) * 8192
    met = proxy.times(2, half, is_put)
    assert store.create("files/x", data)
    assert len(met) == 2
    assert store.read("files/x") == data


def test_retry_after_is_obeyed(store: Store, proxy: Proxy) -> None:
    asked: list[float] = []

    def slow_down(request: Request) -> None:
        request.refuse(503, "ServiceUnavailable", "Please wait", **{"Retry-After": "2"})

    proxy.faults.append(lambda request: asked.append(time.monotonic()) if is_put(request) else None)
    proxy.times(1, slow_down, is_put)
    assert store.create("files/x", b"x")
    assert asked[1] - asked[0] >= 2


@pytest.mark.parametrize("ask", ["exists", "read", "list", "delete", "remove"])
def test_short_trouble_is_waited_out(store: Store, proxy: Proxy, ask: str) -> None:
    store.create("files/x", b"x")
    met = proxy.times(3, lambda request: request.refuse(500, "InternalError", "We broke"), lambda request: True)
    getattr(store, ask)("files" if ask == "list" else "files/x")
    assert len(met) == 3


def test_long_trouble_is_told_whole(store: Store, proxy: Proxy, impatient: None) -> None:
    proxy.faults.append(lambda request: request.refuse(500, "InternalError", "We broke"))
    with pytest.raises(TransientError, match=r"cannot be reached: .*We broke \(files/x\) The trouble lasted for"):
        store.read("files/x")


def test_expired_credentials_are_named(store: Store, proxy: Proxy) -> None:
    proxy.faults.append(lambda request: request.refuse(400, "ExpiredToken", "The provided token has expired."))
    with pytest.raises(EnvironmentProblem, match=r"the credentials have expired .* Log in again, or set new ones"):
        store.read("files/x")


def test_gc_sees_uploads_that_nobody_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(name: str) -> None:
        bucket, key, _ = store.fs.split_path(store.path(name))
        upload = store.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
        store.fs.call_s3("upload_part", Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100)

    begin(f"files/{'a' * 32}/network.safetensors")
    begin("theses/mine.pdf")
    monkeypatch.setattr("orchestrator.retention.garbage.ABANDONED_S", 1e10)  # moto says that all began in 2010
    assert garbage(store) == []
    monkeypatch.undo()
    (found,) = garbage(store)
    assert (found.what, found.file.bytes) == ("unfinished", 100)
    remove(store, [found])
    assert garbage(store) == []
    assert len(list(files(store))) == 2  # the marker, and what is not nagbench's


def test_a_sweep_with_listings_that_lag_and_trouble_on_the_way(
    bucket: str, proxy: Proxy, finished: Ran, tmp_path: Path
) -> None:
    """Every 20th request fails, every 30th answer is lost, and listings are 1 s old: the numbers are the same."""
    asked: list[None] = []

    def now_and_then(request: Request) -> None:
        asked.append(None)
        if len(asked) % 20 == 0:
            request.refuse(503, "SlowDown", "Reduce your request rate")
        elif len(asked) % 30 == 7:
            lose(request)

    proxy.lag(1.0)
    proxy.faults.append(now_and_then)
    few = changed(TINY, "seed: {grid: [0, 1]}", "seed: {grid: [0]}", "  cfg: {cfg: {scale: 1.5}}\n", "")
    (tmp_path / "sweep.yaml").write_text(few)
    ran = run_here(tmp_path / "sweep.yaml", f"{bucket}/lagging")
    assert not ran.failed
    time.sleep(1)
    found = run_here(tmp_path / "sweep.yaml", f"{bucket}/lagging").document()["cells"]
    known = {cell["digest"]: cell["metrics"] for cell in finished.document()["cells"]}
    assert len(found) == 3
    assert all(cell["metrics"] == known[cell["digest"]] for cell in found)
