"""A server of S3 on this machine (moto), and a proxy before it that loses, delays and refuses."""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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


Fault = Callable[["Request"], None]


class Request(http.server.BaseHTTPRequestHandler):
    """A request to the proxy. A fault may change it, or answer it (`done`); else it goes to the server."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_one_request(self) -> None:
        self.done = False
        super().handle_one_request()

    def work(self) -> None:
        self.key = urllib.parse.unquote(self.path.partition("?")[0])
        for fault in self.server.faults:
            fault(self)
            if self.done:
                return
        self.answer(*self.forwarded())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = work

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def forwarded(self) -> tuple[int, dict[str, str], bytes]:
        """The server's answer: status, headers and body."""
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        behind.request(self.command, self.path, self.body(), dict(self.headers.items()))
        answer = behind.getresponse()
        body = answer.read()
        for change in self.server.changes:
            body = change(self, answer.status, body)
        behind.close()
        return answer.status, dict(answer.getheaders()), body

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.done = True
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        """An error as S3 writes it."""
        self.body()
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self.answer(status, {"Content-Type": "application/xml", **headers}, text.encode())

    def reset(self) -> None:
        """Break the connection, as a router that forgets it."""
        self.done = self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        pass


class Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.behind = behind
        self.faults: list[Fault] = []
        self.changes: list[Callable[[Request, int, bytes], bytes]] = []

    def handle_error(self, *_: Any) -> None:
        """A connection that a fault has closed."""

    def times(self, count: int, fault: Fault, wanted: Callable[[Request], bool]) -> list[str]:
        """Apply a fault to the first `count` wanted requests; the keys of those it met."""
        met: list[str] = []

        def limited(request: Request) -> None:
            if len(met) < count and wanted(request):
                met.append(request.key)
                fault(request)

        self.faults.append(limited)
        return met

    def lag(self, seconds: float) -> None:
        """Leave files out of listings until they are so old."""
        made: dict[str, float] = {}

        def change(request: Request, status: int, body: bytes) -> bytes:
            if request.command == "PUT" and status == 200:
                made.setdefault(request.key.removeprefix("/bucket/"), time.monotonic())
            if request.command != "GET" or b"<ListBucketResult" not in body:
                return body

            def kept(entry: re.Match[bytes]) -> bytes:
                key = urllib.parse.unquote(entry[1].decode())
                return entry[0] if time.monotonic() - made.get(key, 0.0) > seconds else b""

            return re.sub(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", kept, body, flags=re.S)

        self.changes.append(change)


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
