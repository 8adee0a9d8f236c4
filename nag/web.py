"""Downloads over http and https, with limits on size and time.

Only the address is sent: no credentials from a URL, ~/.netrc or a redirect. Redirects are followed on http and https
only, and never from https to http. A proxy set in the environment (https_proxy) is used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from nag.unreachable import Unreachable

CHUNK = 2**20
LARGEST = 64 * 2**30  # bytes, if the expected size is not known
REDIRECTS = 5
TIMEOUT_S = 30.0  # without a byte
PATIENCE_S = 60.0  # for the first answer, redirects included; each byte adds 1 / SLOWEST
SLOWEST = 10_000.0  # bytes a second, on average
TICK_S = 0.5
MOVED = (301, 302, 303, 307, 308)


def refusal(url: str) -> str | None:
    """Why this address must not be requested, or None."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"{url[:100]!r}: not a valid address ({error})"
    if parts.scheme not in ("http", "https"):
        return f"{url[:100]!r}: not an http address"
    if "@" in parts.netloc:
        return f"an address on {parts.hostname} with a user or password in it: none is sent. Leave them out"
    if not parts.hostname or not url.isprintable() or not url.isascii() or " " in url:
        return f"{url[:100]!r}: not a valid address. Write special characters as %XX"
    return None


def stamp(url: str) -> str:
    """A file's ETag, modification time and size, as the server reports them; the URL if it does not answer HEAD.

    Raises FileNotFoundError, Unreachable, or ValueError for an address that `refusal` rejects.
    """
    try:
        with _opened(url, "HEAD", _Watch()) as answer:
            return json.dumps([answer.headers.get(key) for key in ("ETag", "Last-Modified", "Content-Length")])
    except _NoHead:
        return json.dumps(url)


def linked_sha256(url: str) -> str | None:
    """The SHA-256 that Hugging Face tells of a large file, in X-Linked-ETag of its redirect; None from other servers.

    Raises FileNotFoundError, Unreachable, or ValueError for an address that `refusal` rejects.
    """
    watch = _Watch()
    with contextlib.suppress(_NoHead), _opened(url, "HEAD", watch):
        pass
    found = re.fullmatch('"?([0-9a-f]{64})"?', watch.linked)
    return found and found[1]


def received(url: str, largest: int | None = None) -> Iterator[tuple[bytes, int]]:
    """A file in pieces, with the announced size or 0.

    Raises FileNotFoundError; Unreachable, also if the file ends early or arrives too slowly; ValueError if it is larger
    than `largest` bytes (LARGEST by default).
    """
    bound = LARGEST if largest is None else largest
    watch = _Watch()
    with _opened(url, "GET", watch) as answer:
        if (answer.headers.get("Content-Encoding") or "identity") != "identity":
            raise _failed(url, "it came compressed, which was not asked for")
        announced = answer.headers.get("Content-Length") or ""
        size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
        while True:
            if max(size, watch.done) > bound:
                raise ValueError(f"{url} is larger than {bound:,} bytes")
            with _plainly(url, watch):
                data = answer.read1(CHUNK)
            if not data:
                break
            watch.done += len(data)
            yield data, size
        if watch.done < size or watch.slow:
            ended = f"it ended after {watch.done:,} of {size:,} bytes"
            raise _failed(url, watch.words() if watch.slow else ended)


class _NoHead(Exception):
    """The server does not answer HEAD."""


class _Watch:
    """Ends a transfer that is too slow on average; socket timeouts cannot, because every byte restarts them."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.done = 0  # bytes
        self.slow = False
        self.linked = ""  # the X-Linked-ETag of a redirect
        self._started = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="download-watch").start()

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            if time.monotonic() - self._started > PATIENCE_S + self.done / SLOWEST:
                self.slow = True
                for each in self.sockets:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)

    def words(self) -> str:
        return f"it is too slow: {self.done:,} bytes in {time.monotonic() - self._started:.0f} s"


@contextlib.contextmanager
def _plainly(url: str, watch: _Watch) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = watch.words() if watch.slow else str(getattr(error, "reason", error)) or type(error).__name__
        raise _failed(url, reason) from error


def _failed(url: str, reason: str) -> Unreachable:
    return Unreachable(f"{url} could not be downloaded: {reason}")


@contextlib.contextmanager
def _opened(url: str, method: str, watch: _Watch) -> Iterator[Any]:
    """The response to a request, after redirects."""
    with watch:
        place, opener = url, _opener(watch)
        for _ in range(REDIRECTS + 1):
            answer, place = _asked(opener, place, method, watch)
            if answer is not None:
                with answer:
                    yield answer
                return
        raise _failed(url, f"more than {REDIRECTS} redirects")


def _asked(opener: Any, url: str, method: str, watch: _Watch) -> tuple[Any, str]:
    """The response, or None and the address to request instead."""
    reason = refusal(url)
    if reason is not None:
        raise ValueError(reason)
    request = urllib.request.Request(url, method=method)
    try:
        with _plainly(url, watch):
            try:
                return opener.open(request, timeout=TIMEOUT_S), url
            except urllib.error.HTTPError as error:
                with error:
                    code, target, words = error.code, error.headers.get("Location"), str(error)
                    watch.linked = error.headers.get("X-Linked-ETag") or watch.linked
    except ValueError as error:  # an address that http.client rejects
        raise _failed(url, str(error)) from error
    if code in MOVED and target:
        moved = urllib.parse.urljoin(url, target)
        if not moved.startswith("https://" if url.startswith("https://") else ("http://", "https://")):
            kept = "https" if url.startswith("https://") else "http and https"
            raise _failed(url, f"it redirects to {moved[:100]!r}; redirects are followed on {kept} only")
        if (reason := refusal(moved)) is not None:
            raise _failed(url, f"it redirects to {reason}")
        return None, moved
    if method == "HEAD" and code in (400, 403, 405, 501):
        raise _NoHead
    if code in (404, 410):
        raise FileNotFoundError(f"{url} could not be downloaded: {words}")
    raise _failed(url, words)


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """Opens http and https only: no files, no FTP, no passwords, no automatic redirects."""
    opener = urllib.request.OpenerDirector()
    handlers = (urllib.request.ProxyHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor)
    for handler in (*(each() for each in handlers), urllib.request.UnknownHandler(), _Http(watch), _Https(watch)):
        opener.add_handler(handler)
    return opener


def _watched(base: Any, watch: _Watch) -> Any:
    class Connection(base):
        def connect(self) -> None:
            create: Any = self._create_connection  # type: ignore[has-type]

            def created(*arguments: Any, **options: Any) -> socket.socket:
                connection = create(*arguments, **options)
                watch.sockets.append(connection)
                return connection

            self._create_connection = created
            super().connect()
            watch.sockets.append(self.sock)

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_watched(http.client.HTTPConnection, self.watch), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_watched(http.client.HTTPSConnection, self.watch), request, context=self._context)  # type: ignore[attr-defined]
