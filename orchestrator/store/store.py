"""Store: where results live, a folder or an fsspec URL. Nothing else in nagbench writes results.

A file appears whole or not at all, the first writer wins, and nothing is changed in place. Every file carries the
checksum of its content, which is checked when it is read; a file that fails is set aside (quarantine/) and made again.
Others may write to a store: their files are ignored, and no link is followed to create or delete a file (folders.py).

    plans/<checksum>.json               every task of a sweep as it was run, and the YAML
    sweeps/<name>/<number>.json         which plans the sweep of that name had, the newest last
    assets/<checksum>/<name>            a file that a sweep names: weights of an extractor, a reference
    records/<kind>/<digest>.json        a small task is done
    files/<digest>/<name>               its output: weights, reference features, influences
    blocks/<digest>/<number>.safetensors    a block of samples or features; the record is its header
    attempts/<digest>/<name>.json       an attempt that failed, with the cause; names sort by time
    leases/<digest>/<number>.json       which process is doing a training
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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from nag import cache, locations
from orchestrator.errors import (
    BadInput,
    CorruptFile,
    EnvironmentProblem,
    MissingFile,
    TransientError,
    Unreadable,
)
from orchestrator.identity import canonical, checksum
from orchestrator.store import folders, layout
from orchestrator.store.arrays import pack, unpack
from orchestrator.store.remote import Remote

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
FORMAT = 1
LOOK_FIRST_S, LOOK_LAST_S = 0.25, 15.0  # pauses while a file may be hidden, growing
MARKER = "nagbench.json"
AT_ONCE = 32  # requests to a remote file system
NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP)  # something else is in the file's place
NOT_OURS = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR)  # something else is in the place of the file to delete


class Store:
    """A folder on a local or remote file system. Paths are relative to it, with forward slashes."""

    def __init__(self, url: str, warn: Callable[[str], None] = lambda text: None) -> None:
        """warn: called once for each thing that is ignored because it is not nagbench's or cannot be read.

        visible_after_s (an attribute) is set where several machines share the store: for how long a file that another
        one has written may be hidden here by caches of the file system (NFS, Lustre).
        """
        self.visible_after_s = 0.0
        if not url.strip():
            raise BadInput("the name of the store is empty: give a folder or a URL, with --store or NAGBENCH_STORE.")
        self.url, self.warn = url, warn
        self._warned: set[str] = set()
        self._is_store = False
        try:
            self.fs, root = locations.system(url, **({"use_listings_cache": False} if locations.is_url(url) else {}))
        except ValueError as error:
            raise BadInput(f"store {url!r}: {error}") from error
        except locations.Unreachable as error:
            raise EnvironmentProblem(f"store {error}") from error
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self.remote = Remote(url, self.fs, self.root)  # if it is not local

    @property
    def logs(self) -> Path:
        """The folder of this machine's task logs: in a local store, else in the user's cache."""
        if self.local:
            return Path(self.path("logs"))
        return cache.folder("logs") / checksum(self.url.encode())

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name)

    def open(self) -> None:
        """Create the store if it is missing. Raises BadInput if it has another format, EnvironmentProblem if it cannot
        be written, or if its server lets two writers overwrite each other.
        """
        marker = canonical({"format": FORMAT}).encode()
        if not self.create(MARKER, marker):
            self.check_format()
        elif not self.local:
            self.remote.check_exclusive(self.path(MARKER), marker, MARKER)

    def check_is_store(self) -> None:
        """Raise BadInput if this is not a store: nothing may be deleted there."""
        if not self._is_store and not self.exists(MARKER):
            raise BadInput(
                f"{self.url} is not a store of nagbench (it has no {MARKER}), so nothing is deleted there. "
                "Name the store, with --store or NAGBENCH_STORE."
            )
        self.check_format()
        self._is_store = True

    def check_format(self) -> None:
        """Raise BadInput if the store has another format; one that does not exist yet is fine."""
        try:
            version = json.loads(self.read(MARKER)).get("format")
        except FileNotFoundError:
            return
        except (ValueError, AttributeError, RecursionError) as error:
            raise BadInput(f"store {self.url}: {MARKER} is not valid; is this a nagbench store?") from error
        if version != FORMAT:
            raise BadInput(
                f"store {self.url} has format {version}, this nagbench writes format {FORMAT}: "
                "use another --store, or the nagbench version that made it"
            )

    def check_exclusive(self, name: str) -> None:
        """Try whether the server of a remote store keeps two writers from overwriting each other, with files of this
        name, which are removed again. Raises EnvironmentProblem.
        """
        path, data = self.path(name), b"first"
        self.remote.create(path, data, name)
        try:
            self.remote.check_exclusive(path, data, name)
            self.remote.check_parts(f"{path}.parts", name)
        finally:
            self.remote.ask(name, lambda: self.fs.rm_file(path))  # `delete` needs a store, and there may be none yet

    def create(self, name: str, data: bytes) -> bool:
        """Publish a whole file; False if there is one already, which stays. Raises EnvironmentProblem if that fails."""
        try:
            if self.local:
                return folders.create(self.root, name, data)
            return self.remote.create(self.path(name), data, name)
        except FileExistsError:
            return False
        except OSError as error:
            raise TransientError(f"store {self.url} cannot be written: {error.strerror or error} ({name})") from error

    def at_once(self, request: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """`request(name)` for each name; on a remote file system, where answers are slow, many at once."""
        if self.local:
            yield from map(request, names)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(request, names)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises MissingFile, Unreadable, or CorruptFile if it is not a regular file."""
        try:
            if self.local:
                return folders.read(self.path(name))
            return self.remote.ask(name, lambda: self.fs.cat_file(self.path(name)))
        except FileNotFoundError as error:
            raise MissingFile(f"{name} is not in the store; it will be made again") from error
        except NotADirectoryError as error:
            if not os.path.exists(self.root) or os.path.isdir(self.root):
                raise MissingFile(f"{name} is not in the store; it will be made again") from error
            raise EnvironmentProblem(f"store {self.url} is not a folder: {error}") from error
        except PermissionError as error:
            raise unreadable(self.path(name), error) from error
        except OSError as error:
            if error.errno in NO_FILE:
                raise CorruptFile(f"{self.path(name)} cannot be read: {error.strerror}") from error
            raise TransientError(f"store {self.url} cannot be read: {error.strerror or error} ({name})") from error

    def list(self, folder: str, strict: bool = False) -> list[str]:
        """Names in a folder, sorted; empty if it is missing. Names that are not nagbench's are left out.

        strict: raise EnvironmentProblem for a folder that cannot be read, instead of ignoring it.
        """
        path = self.path(folder)
        try:
            names = os.listdir(path) if self.local else self.remote.ask(folder, lambda: self.fs.ls(path, False))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if os.path.isdir(self.root):
                self.pass_over(folder, "is not a folder")
            return []
        except OSError as error:
            if strict or error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP):
                raise TransientError(f"{path} cannot be read: {error.strerror or error}.") from error
            self.pass_over(folder, f"cannot be read ({error.strerror})")
            return []
        names = list(map(posixpath.basename, names))
        ours = sorted(name for name in names if layout.is_own_name(folder, name))
        others = sorted(name for name in set(names).difference(ours) if not name.startswith("."))
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            self.pass_over(folder, f"has files that are not nagbench's: {others[0][:80]!r}{more}")
        return ours

    def pass_over(self, name: str, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self.warn(f"Passed over: {self.path(name)} {why}.")

    def local_copy(self, folder: str) -> str:
        """A local path of a folder whose files never change: the store's own, or a copy in the cache."""
        if self.local:
            return self.path(folder)
        base = cache.folder("store")
        target = base / checksum(self.url.encode()) / folder
        for name in self.list(folder):
            if not (target / name).exists():
                folders.create(str(target), name, self.read(f"{folder}/{name}"))
        return str(target)

    def exists(self, name: str) -> bool:
        if self.local:
            return os.path.exists(self.path(name))
        return self.remote.ask(name, lambda: self.fs.exists(self.path(name)))

    def appears(self, name: str, within_s: float | None = None) -> bool:
        """Whether a file is there, or appears in this time (by default visible_after_s). In between, the folders that
        lead to it are read, which refreshes what a file system's client remembers of them.
        """
        within_s = self.visible_after_s if within_s is None else within_s
        end, pause = time.monotonic() + within_s, LOOK_FIRST_S
        while not self.exists(name):
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, LOOK_LAST_S)
            for folder in reversed(PurePosixPath(self.path(name)).parents) if self.local else ():
                if str(folder).startswith(self.root):
                    with contextlib.suppress(OSError):
                        os.listdir(folder)
        return True

    def remove(self, name: str) -> None:
        """Move a file to quarantine/, so that it is made again and can still be inspected."""
        self.check_is_store()
        kept = f"quarantine/{name}.{uuid.uuid4().hex[:8]}"
        try:
            if self.local:  # an object store has no folders, and s3fs would try to make the bucket
                folders.move(self.root, name, kept)
                return
            self.remote.ask(name, lambda: self.fs.mv(self.path(name), self.path(kept)))
        except FileNotFoundError:
            return  # another process was faster
        except OSError as error:
            words = error.strerror or error
            raise EnvironmentProblem(f"{self.path(name)} is damaged and cannot be set aside: {words}.") from error

    def delete(self, name: str) -> bool:
        """Delete a file that is not needed any more, such as an old checkpoint or a lease. False if there is none, or
        for a folder or a file behind a link, which stay.
        """
        self.check_is_store()
        try:
            if self.local:
                folders.delete(self.root, name)
            else:
                self.remote.ask(name, lambda: self.fs.rm_file(self.path(name)))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise EnvironmentProblem(f"{self.path(name)} cannot be deleted: {error.strerror or error}.") from error
            self.pass_over(name, f"is not deleted: {error.strerror}")
            return False
        return True

    def open_log(self, name: str) -> int:
        """A descriptor that appends to a log of this machine. Anything else in its place is set aside."""
        root, path = (self.root, f"logs/{name}") if self.local else (str(self.logs), name)
        try:
            try:
                return folders.append(root, path)
            except OSError as error:
                if not self.local or error.errno not in (*NO_FILE, errno.EMLINK):
                    raise
                self.remove(path)
                return folders.append(root, path)
        except OSError as error:
            raise EnvironmentProblem(f"{self.logs / name} cannot be written: {error.strerror or error}.") from error

    def delete_empty_log(self, name: str) -> None:
        root, path = (self.root, f"logs/{name}") if self.local else (str(self.logs), name)
        with contextlib.suppress(OSError):
            if not os.lstat(os.path.join(root, path)).st_size:
                folders.delete(root, path)

    # Records: JSON with its own checksum.

    def create_record(self, name: str, record: Mapping[str, Any]) -> bool:
        return self.create(name, _sealed(record))

    def read_record(self, name: str, *, repair: bool = True) -> dict[str, Any]:
        """A record, checked. Raises MissingFile, or CorruptFile after setting it aside (if `repair`)."""
        wrong = "does not match its checksum"
        try:
            record = json.loads(self.read(name))
            claimed = record.pop("checksum")
            if checksum(canonical(record).encode()) == claimed:
                lacking = layout.lacks(name, record)
                if not lacking:
                    return record
                wrong = f"has the checksum of its content, but no valid {lacking!r}"
        except (MissingFile, Unreadable):
            raise
        except CorruptFile as error:
            wrong = f"is not a file that can be read ({error.__cause__})"
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            pass
        if repair:
            self.remove(name)
        raise CorruptFile(f"{name} {wrong}; it was set aside and will be made again")

    # Tensors: safetensors whose header holds the record, with the checksum of the content.

    def create_arrays(self, name: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bool:
        return self.create(name, pack(arrays, record))

    def read_arrays(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and record of a file, checked. Raises MissingFile, or CorruptFile after setting it aside."""
        try:
            arrays, record = unpack(self.read(name))
            if lacking := layout.lacks(name, record):
                raise ValueError(f"its record has no valid {lacking!r}")
            return arrays, record
        except (MissingFile, Unreadable):
            raise
        except (CorruptFile, ValueError) as error:
            self.remove(name)
            raise CorruptFile(f"{name}: {error}; it was set aside and will be made again") from error


def unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(f"{path} cannot be read: {error.strerror}. Ask its owner, or use another --store.")


def _sealed(record: Mapping[str, Any]) -> bytes:
    return (canonical({**record, "checksum": checksum(canonical(record).encode())}) + "\n").encode()
