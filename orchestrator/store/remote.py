"""Requests to a remote file system: patience with short trouble, answers that got lost, servers that overwrite.

A request is repeated while the server says that it is busy or broken (408, 409, 429, 5xx), and after a connection that
broke, for WAIT_S in all and never sooner than its Retry-After asks. A server that has not answered this process yet and
does not accept a connection is not waited for.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from orchestrator.errors import EnvironmentProblem, NagbenchError, TransientError

T = TypeVar("T")
WAIT_S = 60.0
PAUSES_S = (0.2, 8.0)  # the first and the longest pause between two requests; doubled each time
CLAIM_BYTES = 1 << 16  # claims are records, and smaller than this
JOINED_BYTES = 100 << 20  # s3fs uploads what is larger in parts
BUSY = (408, 409, 425, 429)  # 409: S3, another process is writing the same object just now
FOR_EVER = (501, 505)  # the other 5xx pass
SHORT = {"RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown"}  # codes of S3 that come with 400
BROKEN = {"ConnectionResetError", "BrokenPipeError", "ConnectionClosedError", "ServerDisconnectedError", "TimeoutError"}
BROKEN |= {"ReadTimeoutError", "ClientPayloadError", "IncompleteRead", "IncompleteReadError", "FSTimeoutError"}
BROKEN |= {"ResponseStreamingError", "ClientOSError"}
ABSENT = {"EndpointConnectionError", "ClientConnectorError", "ConnectTimeoutError", "ConnectionRefusedError"}
ABSENT |= {"gaierror"}
OVERWRITES = (
    "this server ignores If-None-Match: of two processes that write one file, the last would win in silence. Use a "
    "server with conditional writes, such as AWS S3 or a current MinIO or Ceph, or a folder."
)


@dataclass
class Remote:
    """A remote file system as a store uses it. Paths are those of fsspec; `name`: of the file, for messages.

    Every method raises EnvironmentProblem, or TransientError after WAIT_S of trouble.
    """

    url: str
    fs: Any
    root: str
    _answered: bool = False
    _joins: bool = field(default=False, repr=False)  # whether uploads in parts are known to be safe

    def ask(self, name: str, request: Callable[[], T]) -> T:
        """The answer to a request. Raises FileNotFoundError and FileExistsError too."""
        until, pause_s = time.monotonic() + WAIT_S, PAUSES_S[0]
        while True:
            try:
                answer = request()
            except (FileNotFoundError, FileExistsError):
                self._answered = True
                raise
            except NagbenchError:
                raise
            except Exception as error:
                wait_s = max(pause_s, _retry_after_s(error))
                if not self._may_pass(error):
                    raise self._problem(error, name) from error
                if time.monotonic() + wait_s > until:
                    words = f"{self._problem(error, name)} The trouble lasted for {WAIT_S:.0f} s."
                    raise TransientError(words) from error
                time.sleep(wait_s)
                pause_s = min(2 * pause_s, PAUSES_S[1])
            else:
                self._answered = True
                return answer

    def create(self, path: str, data: bytes, name: str) -> bool:
        """Create a file; False if there is one already. A small file with the same bytes is ours: the answer to an
        earlier request was lost. So a claim must name its owner.
        """
        if len(data) >= JOINED_BYTES and not self._joins:
            self.check_parts(f"{path}.parts", name)
        try:
            self.ask(name, lambda: self.fs.pipe_file(path, data, mode="create"))
            return True
        except FileExistsError:
            return len(data) <= CLAIM_BYTES and self._holds(path, data, name)
        except FileNotFoundError:  # an upload in parts whose last answer was lost, or there is no bucket
            if self.ask(name, lambda: self.fs.info(path))["size"] != len(data):
                raise
            return True

    def _holds(self, path: str, data: bytes, name: str) -> bool:
        try:
            return bool(self.ask(name, lambda: self.fs.cat_file(path)) == data)
        except FileNotFoundError:
            return False

    def check_exclusive(self, path: str, data: bytes, name: str) -> None:
        """Raise EnvironmentProblem if the server replaces a file, which has these bytes, in spite of mode "create"."""
        try:
            self.ask(name, lambda: self.fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return
        raise EnvironmentProblem(f"store {self.url}: {OVERWRITES}")

    def check_parts(self, path: str, name: str) -> None:
        """The same for S3's uploads in parts. Makes and removes a file."""
        if "s3" not in self.fs.protocol:
            return
        bucket, key, _ = self.fs.split_path(path)
        place = {"Bucket": bucket, "Key": key}
        try:
            self.ask(name, lambda: self._join(place))
            self.ask(name, lambda: self._join(place))
        except FileExistsError:
            self._joins = True
            return
        finally:
            self.ask(name, lambda: self.fs.rm_file(path))
        raise EnvironmentProblem(f"store {self.url}: for large files, {OVERWRITES}")

    def _join(self, place: Mapping[str, str]) -> None:
        upload = {**place, "UploadId": self.fs.call_s3("create_multipart_upload", **place)["UploadId"]}
        try:
            part = self.fs.call_s3("upload_part", **upload, PartNumber=1, Body=b"x")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            self.fs.call_s3("complete_multipart_upload", **upload, MultipartUpload=parts, IfNoneMatch="*")
        except Exception:
            self.fs.call_s3("abort_multipart_upload", **upload)
            raise

    def _may_pass(self, error: BaseException) -> bool:
        for each in _chain(error):
            status, name = _status(each), type(each).__name__
            if status is not None and (status in BUSY or (status >= 500 and status not in FOR_EVER)):
                return True
            if _code(each) in SHORT or name in BROKEN or (name in ABSENT and self._answered):
                return True
        return False

    def _problem(self, error: Exception, name: str) -> EnvironmentProblem:
        error = self._with_reason(error)
        text = " ".join(str(error).split()) or type(error).__name__
        if "expired" in f"{text} {' '.join(_code(each) for each in _chain(error))}".lower():
            fix = "Log in again, or set new ones, and run the same command."
            return EnvironmentProblem(f"store {self.url} refuses: the credentials have expired ({text}). {fix}")
        if isinstance(error, OSError) and error.errno == errno.ENOSYS:  # 501
            return EnvironmentProblem(f"store {self.url} does not know a request ({text}): {OVERWRITES} ({name})")
        words = "refuses" if isinstance(error, PermissionError) else "cannot be reached"
        return EnvironmentProblem(f"store {self.url} {words}: {text} ({name})")

    def _with_reason(self, error: Exception) -> Exception:
        """The answer to a HEAD request has a status and no words: then what a listing answers."""
        if any(_code(each).isdigit() for each in _chain(error)):
            try:
                self.fs.ls(self.root, False)
            except Exception as whole:  # noqa: BLE001  (a remote file system may raise anything)
                return whole
        return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> Mapping[str, Any]:
    """The answer in an error of botocore."""
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) else {}


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of botocore, aiohttp, gcsfs or Azure."""
    known = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for value in (known, *(getattr(error, name, None) for name in ("status", "status_code", "code"))):
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


def _code(error: BaseException) -> str:
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _retry_after_s(error: BaseException) -> float:
    """How long the server asks to wait: seconds or a date; 0 if it does not say."""
    for each in _chain(error):
        headers = _answer(each).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        text = str(headers.get("retry-after", "")).strip()
        if text.isdigit():
            return float(text)
        if text:
            try:
                return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
            except (ValueError, TypeError):
                continue
    return 0.0
