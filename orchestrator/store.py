"""Where results live: an fsspec URL. Nothing else in nagbench writes results to a file system.

A file appears whole or not at all, and the first writer wins; nothing is ever changed in place. Every file carries the
checksum of its content, checked when it is read; a file that fails is set aside (quarantine/) and made again.

    plans/<checksum>.json               every task of a sweep as it was run, and the YAML
    sweeps/<name>/<number>.json         which plans the sweep of that name had, the newest last
    assets/<checksum>/<name>            a file that a sweep names: weights of an extractor, a reference
    records/<kind>/<digest>.json        a small task is done
    files/<digest>/<name>               its output: weights, reference features, influences
    blocks/<digest>/<number>.safetensors    a block of samples or features; the record is its header
    attempts/<digest>/<name>.json       an attempt that failed, with the cause; names sort by time
    leases/<digest>/<number>.json       who is at work on a training
    code/<digest>/<path>                the user's own code that a sweep uses; <digest>.json has the checksums
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from nag import cache, locations
from orchestrator.errors import BadInput, CorruptFile, EnvironmentProblem, MissingFile, NagbenchError, Passing
from orchestrator.identity import canonical, checksum

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

FORMAT = 1
MARKER = "nagbench.json"
AT_ONCE = 32  # questions to a remote file system
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)
CLAIM_S = 30.0  # a claim is made for the time of one rename


class Store:
    """A folder on a local or remote file system. Paths are relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.fs, root = locations.system(url, **({"use_listings_cache": False} if locations.is_url(url) else {}))
        except ValueError as error:
            raise BadInput(f"store {url!r}: {error}") from error
        except locations.Unreachable as error:
            raise EnvironmentProblem(f"store {error}") from error
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    @property
    def logs(self) -> Path:
        """Where workers of this machine write a log for each task: in a local store, else in the user's cache."""
        if self.local:
            return Path(self.path("logs"))
        return cache.folder("logs") / checksum(self.url.encode())

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name)

    def open(self) -> None:
        """Make the store if it is not there. Raises BadInput for the store of another format, EnvironmentProblem if it
        cannot be written.
        """
        if not self.create(MARKER, canonical({"format": FORMAT}).encode()):
            self.check_format()

    def check_format(self) -> None:
        """Raises BadInput if there is a store of another format; a store that is not there yet is fine."""
        try:
            found = json.loads(self.read(MARKER)).get("format")
        except FileNotFoundError:
            return
        except (ValueError, AttributeError) as error:
            raise BadInput(f"store {self.url}: {MARKER} is not readable; is this a folder of nagbench?") from error
        if found != FORMAT:
            raise BadInput(
                f"store {self.url} has format {found}, this nagbench writes format {FORMAT}: "
                "use another --store, or the nagbench version that made it"
            )

    def create(self, name: str, data: bytes) -> bool:
        """Publish a whole file; False if there was one already, which then stays. Raises EnvironmentProblem if it
        cannot.
        """
        path = self.path(name)
        try:
            if self.local:
                return _create_local(path, data)
            with self._reached(name):
                return self._create_remote(path, data)
        except FileExistsError:
            return False
        except OSError as error:
            raise Passing(f"store {self.url} cannot be written: {error.strerror or error} ({name})") from error

    def _create_remote(self, path: str, data: bytes) -> bool:
        for wait_s in (0.1, 0.5, 2.0, 5.0, 0.0):
            try:
                self.fs.pipe_file(path, data, mode="create")
                return True
            except OSError as error:
                if error.errno != errno.EBUSY or not wait_s:  # S3: somebody else is writing it at this moment
                    raise
                time.sleep(wait_s)
        return False

    @contextlib.contextmanager
    def _reached(self, name: str) -> Iterator[None]:
        """What the library of a remote file system says of networks and credentials, as an error of ours."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, NagbenchError):
            raise
        except Exception as error:
            if self.local:
                raise
            words = "refuses" if isinstance(error, PermissionError) else "cannot be reached"
            raise EnvironmentProblem(f"store {self.url} {words}: {error} ({name})") from error

    def at_once(self, look: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """`look` at each of these names: on a remote file system, where an answer takes its time, many at once."""
        if self.local:
            yield from map(look, names)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(look, names)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises MissingFile."""
        try:
            with self._reached(name):
                return self.fs.cat_file(self.path(name))
        except FileNotFoundError as error:
            raise MissingFile(f"{name} is not in the store; it will be made again") from error
        except NotADirectoryError as error:
            raise EnvironmentProblem(f"store {self.url} is not a folder: {error}") from error

    def list(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty if it is not there. Unfinished files are left out."""
        path = self.path(folder)
        try:
            with self._reached(folder):
                names = os.listdir(path) if self.local else [posixpath.basename(n) for n in self.fs.ls(path, False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def local_copy(self, folder: str) -> str:
        """A folder of files that never change, as one of this machine: the store's own, or a copy in a cache."""
        if self.local:
            return self.path(folder)
        base = cache.folder("store")
        target = base / checksum(self.url.encode()) / folder
        for name in self.list(folder):
            if not (target / name).exists():
                _create_local(str(target / name), self.read(f"{folder}/{name}"))
        return str(target)

    def exists(self, name: str) -> bool:
        with self._reached(name):
            return self.fs.exists(self.path(name))

    def remove(self, name: str) -> None:
        """Set a file aside under quarantine/, so that it is made again and can still be looked at."""
        kept = self.path(f"quarantine/{name}.{uuid.uuid4().hex[:8]}")
        if self.local:  # an object store has no folders, and s3fs would try to make the bucket
            self.fs.makedirs(posixpath.dirname(kept), exist_ok=True)
        try:
            with self._reached(name):
                self.fs.mv(self.path(name), kept)
        except FileNotFoundError:
            return  # another process was faster

    def delete(self, name: str) -> None:
        """Remove a file of which a newer one has taken the place (an old training checkpoint, a lease)."""
        try:
            with self._reached(name):
                self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            return

    # Records: JSON with its own checksum.

    def create_record(self, name: str, record: Mapping[str, Any]) -> bool:
        return self.create(name, _sealed(record))

    def read_record(self, name: str, *, repair: bool = True) -> dict[str, Any]:
        """A record, checked. Raises MissingFile, or CorruptFile after setting it aside (unless not `repair`)."""
        try:
            record = json.loads(self.read(name))
            claimed = record.pop("checksum")
            if checksum(canonical(record).encode()) == claimed:
                return record
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        if repair:
            self.remove(name)
        raise CorruptFile(f"{name} does not match its checksum; it was set aside and will be made again")

    # Tensors: safetensors whose header holds the record, with the checksum of the content.

    def create_arrays(self, name: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bool:
        return self.create(name, pack(arrays, record))

    def read_arrays(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and record of a file, checked. Raises MissingFile, or CorruptFile after setting it aside."""
        data = self.read(name)
        try:
            return unpack(data)
        except ValueError as error:
            self.remove(name)
            raise CorruptFile(f"{name}: {error}; it was set aside and will be made again") from error


def _create_local(path: str, data: bytes) -> bool:
    folder, base = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{base}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        try:
            os.link(temporary, path)  # fails if the path is there: the first writer wins
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                return os.path.samefile(temporary, path)  # NFS may carry a request out, and lose the answer
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _claimed(temporary, path)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _claimed(temporary: str, path: str) -> bool:
    """The same on a file system that has no hard links: who makes the claim beside it may move the file there. A claim
    whose maker has died in between is followed by the next one.
    """
    folder, base = os.path.split(path)
    number = 0
    while not os.path.exists(path):
        claim = os.path.join(folder, f".{base}.claim-{number}")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            number += _is_old(claim, temporary)
            time.sleep(0.01)
            continue
        try:
            if not os.path.exists(path):
                os.replace(temporary, path)
                return True
        finally:
            for made in range(number + 1):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, f".{base}.claim-{made}"))
    return False


def _is_old(claim: str, mine: str) -> bool:
    """Whether a claim has lost its maker, by the clock of the file system."""
    os.utime(mine)
    try:
        return os.stat(mine).st_mtime - os.stat(claim).st_mtime > CLAIM_S
    except FileNotFoundError:
        return False


def _sealed(record: Mapping[str, Any]) -> bytes:
    return (canonical({**record, "checksum": checksum(canonical(record).encode())}) + "\n").encode()


def pack(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bytes:
    """A file of arrays with its record in the header."""
    import numpy as np
    from safetensors.numpy import save

    from nag.checkpoint import KEY

    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    header = {"record": record, "checksum": _content_checksum(arrays, record)}
    return save(arrays, metadata={KEY: canonical(header)})


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and record of a packed file. Raises ValueError if it is cut off, damaged or something else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from nag.checkpoint import KEY, metadata

    try:
        header = json.loads(metadata(data)[KEY])
        arrays, record = load(data), header["record"]
        matches = _content_checksum(arrays, record) == header["checksum"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError("damaged or cut off") from error
    if not matches:
        raise ValueError("its content does not match its checksum")
    return arrays, record


def _content_checksum(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> str:
    parts = [canonical(record)]
    for name, array in sorted(arrays.items()):
        parts.append(
            canonical([name, str(array.dtype), list(array.shape), checksum(array.reshape(-1).view("u1").data)])
        )
    return checksum("\n".join(parts).encode())
