"""Files over http, from a server on this machine that behaves well or badly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nag import web
from nag.datasets import listing as files
from nag.datasets.dataset import listing
from nag.datasets.npz import Npz
from nag.unreachable import Unreachable

DATA = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_HEAD(self) -> None:
        if self.path == "/nohead":
            self.send_error(405)
        else:
            self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        self.close_connection = True
        page = self.path.strip("/")
        if page in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[page])
            self.end_headers()
            if body and page == "chatty":
                self.endless()
        elif page == "missing":
            self.send_error(404, "not here")
        elif page in ("endless", "slow", "silent"):
            getattr(self, page)()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(self.server.length or len(self.server.data)))
            self.send_header("ETag", self.server.tag)
            if page == "packed":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            if body:
                self.wfile.write(self.server.data)

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.over.is_set():
            self.wfile.write(bytes(65536))

    def slow(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.over.wait(0.05):  # each byte begins a socket's timeout anew
            self.wfile.write(b"0")
            self.wfile.flush()

    def silent(self) -> None:
        self.server.over.wait(30)

    def log_message(self, *arguments: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.moved, made.data, made.length, made.tag = [], {}, DATA, None, "one"
    made.over = threading.Event()
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    thread.join()
    made.server_close()


def whole(url: str, largest: int | None = None) -> bytes:
    return b"".join(data for data, _ in web.received(url, largest))


def test_a_file_comes_whole_with_its_size(server: Any) -> None:
    assert whole(f"{server.url}/x") == DATA
    assert {size for _, size in web.received(f"{server.url}/x")} == {len(DATA)}


def test_redirects_stay_on_the_web(server: Any) -> None:
    server.moved = {"near": "/x", "far": f"{server.url}/near"}
    assert whole(f"{server.url}/far") == DATA
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x", "javascript:x"):
        server.moved["away"] = target
        with pytest.raises(Unreachable, match=r"it redirects to .*; redirects are followed on http and https only"):
            whole(f"{server.url}/away")
    server.moved["secret"] = f"http://user:word@127.0.0.1:{server.server_port}/x"
    with pytest.raises(Unreachable, match="a user or password in it") as caught:
        whole(f"{server.url}/secret")
    assert "word@" not in str(caught.value)


def test_a_circle_of_redirects_ends(server: Any) -> None:
    server.moved = {"a": "/b", "b": "/a"}
    with pytest.raises(Unreachable, match="more than 5 redirects"):
        whole(f"{server.url}/a")


def test_what_a_redirect_says_beside_is_not_read(server: Any) -> None:
    server.moved = {"chatty": "/x"}
    assert whole(f"{server.url}/chatty") == DATA


def test_no_credentials_are_sent(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server.moved = {"near": "/x"}
    whole(f"{server.url}/near")
    web.stamp(f"{server.url}/near")
    sent = {name.lower() for _, _, headers in server.seen for name in headers}
    assert len(server.seen) == 4
    assert not sent & {"authorization", "cookie", "proxy-authorization", "referer"}
    with pytest.raises(ValueError, match="a user or password in it"):
        whole(server.url.replace("//", "//user:secret@") + "/x")


def test_an_endless_file_is_cut(server: Any) -> None:
    with pytest.raises(ValueError, match=r"/endless is larger than 300,000 bytes"):
        whole(f"{server.url}/endless", 300_000)
    with pytest.raises(ValueError, match=r"/x is larger than 1,000 bytes"):
        whole(f"{server.url}/x", 1000)


@pytest.mark.parametrize("page", ["slow", "silent"])
def test_a_slow_file_is_given_up(server: Any, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE_S", 0.5)
    monkeypatch.setattr(web, "TICK_S", 0.1)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=rf"/{page} could not be downloaded: it is too slow: 0 bytes in \d+ s"):
        whole(f"{server.url}/{page}")
    assert time.monotonic() - started < 25


def test_a_wrong_length_is_told(server: Any) -> None:
    server.length = len(DATA) + 5
    with pytest.raises(Unreachable, match=r"it ended after 102,400 of 102,405 bytes"):
        whole(f"{server.url}/x")


def test_what_was_not_asked_for_is_refused(server: Any) -> None:
    with pytest.raises(Unreachable, match="came compressed"):
        whole(f"{server.url}/packed")
    with pytest.raises(FileNotFoundError, match=r"/missing could not be downloaded: .*404"):
        whole(f"{server.url}/missing")
    with pytest.raises(Unreachable, match="could not be downloaded"):
        whole("http://127.0.0.1:1/x")


def test_a_data_set_at_an_address_is_fetched_once_and_seen_to_change(server: Any, tmp_path: Path) -> None:
    def put(seed: int) -> bytes:
        images = np.random.default_rng(seed).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{seed}.npz", arr_0=images)
        server.data, server.tag = (tmp_path / f"{seed}.npz").read_bytes(), str(seed)
        return server.data

    put(0)
    url = f"{server.url}/x.npz"
    first = listing(url)
    assert first == listing(str(tmp_path / "0.npz"))
    assert Npz(path=url).shape == (3, 4, 4)
    assert len(Npz(path=url).open("train")) == 5
    assert sum(command == "GET" for command, _, _ in server.seen) == 1
    put(1)
    assert listing(url) == listing(str(tmp_path / "1.npz")) != first
    server.data = server.data[:-10]
    server.length, server.tag = len(server.data) + 10, "cut"
    with pytest.raises(Unreachable, match="it ended after"):
        listing(url)
    assert not list(files.cache.folder("files").rglob(".*"))
