"""A server of S3 on this machine (moto), and a proxy before it that loses, delays and refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.orchestrator.proxy import Proxy

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def forget() -> None:
    """Forget fsspec's connections, which were made with other environment variables."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    end = time.monotonic() + 60
    while not answers(port):
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.1)
    yield port
    server.terminate()
    server.wait()
    log.close()


@pytest.fixture(scope="module")
def bucket(s3_port: int) -> Iterator[str]:
    """The URL of a bucket; the environment says where the server is."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}"}.items():
            patch.setenv(name, value)
        forget()
        from s3fs import S3FileSystem

        if not S3FileSystem().exists("bucket"):
            S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        forget()


@pytest.fixture(scope="module")
def before(bucket: str, s3_port: int) -> Iterator[Proxy]:
    """A proxy before the server; the environment leads to it."""
    with Proxy(s3_port) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # only nagbench's own patience
        forget()
        yield server
        server.shutdown()
    forget()


@pytest.fixture
def proxy(before: Proxy) -> Iterator[Proxy]:
    """The proxy, without faults yet."""
    yield before
    before.faults.clear()
    before.changes.clear()
