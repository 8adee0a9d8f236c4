"""Garbage: files of a store that no sweep refers to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CorruptFile
from orchestrator.plan.choices import Choices
from orchestrator.plan.model import behind_tasks
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import read_plan
from orchestrator.retention.policy import FOLDERS, UNFINISHED, Plans
from orchestrator.retention.queue_files import QueueFiles
from orchestrator.store import folders, layout

if TYPE_CHECKING:
    from orchestrator.store.store import Store
    from orchestrator.tasks.stored import StoredTasks

ABANDONED_S = 86400.0  # an unfinished file this old has no writer left


@dataclass(frozen=True)
class File:
    name: str  # below the store
    bytes: int
    time: float  # of its last change; 0 if the store does not know it
    upload: str = ""  # the number of an upload in parts that nobody has finished (S3)


def files(store: Store) -> list[File]:
    """Every file of a store, including hidden ones, and uploads to S3 that are not finished."""
    return list(_walk(store.root) if store.local else [*_remote_files(store), *_uploads(store)])


def _walk(root: str) -> Iterator[File]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                stat = os.lstat(path)
                yield File(os.path.relpath(path, root).replace(os.sep, "/"), stat.st_size, stat.st_mtime)


def _remote_files(store: Store) -> Iterator[File]:
    start = len(store.root) + 1
    found = store.remote.ask("", lambda: store.fs.find(store.root, detail=True))
    for path, about in found.items():
        yield File(path[start:], int(about["size"] or 0), 0.0)


def _uploads(store: Store) -> Iterator[File]:
    """S3 keeps the parts of an upload, and asks for money, until it is finished or aborted. No listing shows them."""
    if "s3" not in store.fs.protocol:
        return
    ask, start = store.remote.ask, len(store.root) + 1
    bucket, prefix, _ = store.fs.split_path(f"{store.root}/")
    page: dict[str, Any] = {"NextKeyMarker": "", "NextUploadIdMarker": "", "IsTruncated": True}
    while page.get("IsTruncated"):
        after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        wanted = {"Bucket": bucket, "Prefix": prefix} | {key: marker for key, marker in after.items() if marker}
        page = ask("", partial(store.fs.call_s3, "list_multipart_uploads", **wanted))
        for each in page.get("Uploads", []):
            place = {"Bucket": bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
            with contextlib.suppress(FileNotFoundError):  # it was finished just now
                parts = ask("", partial(store.fs.call_s3, "list_parts", **place)).get("Parts", [])
                name, size = f"{bucket}/{each['Key']}"[start:], sum(part["Size"] for part in parts)
                yield File(name, size, each["Initiated"].timestamp(), each["UploadId"])


@dataclass(frozen=True)
class Garbage:
    file: File
    what: str


def garbage(store: Store, quarantine: bool = False) -> list[Garbage]:
    """What `gc` would remove. quarantine: also files set aside, and failed attempts at tasks that are done by now.

    Raises BadInput for a folder that is not a store, or if a plan cannot be read: all of its results would count as
    garbage.
    """
    store.check_is_store()
    candidates = files(store)  # before the plans: a run writes its plan before its results
    wanted = _Wanted(store, Plans(store).live(), quarantine)
    return [Garbage(file, what) for file in candidates if (what := wanted.lacks(file))]


def remove(store: Store, what: Iterable[Garbage]) -> None:
    emptied = set()
    for each in what:
        if each.file.upload:
            bucket, key, _ = store.fs.split_path(store.path(each.file.name))
            with contextlib.suppress(FileNotFoundError):  # it was finished or aborted meanwhile
                store.remote.ask(key, partial(store.fs.abort_mpu, bucket, key, each.file.upload))
            continue
        store.delete(each.file.name)
        parts = each.file.name.split("/")[:-1]
        emptied |= {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
    if store.local:
        for folder in sorted(emptied, reverse=True):  # inner ones first
            with contextlib.suppress(OSError):  # something else is in it
                folders.delete_folder(store.root, folder)


class _Wanted:
    def __init__(self, store: Store, live: list[StoredTasks], quarantine: bool) -> None:
        self.tasks = {digest for plan in live for digest in plan.tasks}
        self.texts = {text for plan in live for task in plan.tasks.values() for text in _texts(task.params)}
        self.plans = {plan.name for plan in live}
        self.store, self.quarantine, done = store, quarantine, Done(store)
        self.queue = QueueFiles(store)
        self.open = {digest for plan in live for digest in _open(plan, done)} if quarantine else set()

    def lacks(self, file: File) -> str:
        """The kind of garbage that a file is; "" if it is still wanted."""
        parts = file.name.split("/")
        if file.upload:
            old = file.time < time.time() - ABANDONED_S
            return "unfinished" if old and layout.OURS.fullmatch(file.name) else ""
        if parts[-1].startswith("."):
            ours = parts[0] in FOLDERS and UNFINISHED.fullmatch(parts[-1])
            return "unfinished" if ours and 0 < file.time < time.time() - ABANDONED_S else ""
        if not layout.OURS.fullmatch(file.name):
            return ""
        match parts:
            case ["blocks" | "files" | "attempts" | "leases" as kind, digest, *_] if digest not in self.tasks:
                return kind
            case ["attempts", digest, _] if self.quarantine and digest not in self.open:
                return "attempts"
            case ["records", _, name] if name.removesuffix(".json") not in self.tasks:
                return "records"
            case ["logs", name] if name.removesuffix(".log") not in self.tasks:
                return "logs"
            case ["plans", name] if name.removesuffix(".json") not in self.plans:
                return "plans"
            case ["sweeps", _, _] if self._stale(file.name):
                return "plans"
            case ["assets" | "code" as kind, name, *_] if not {name.removesuffix(".json"), f"{name}/"} & self.texts:
                return kind
            case ["waves" | "cluster", *_]:
                return self.queue.lacks(file.name, file.time)
            case ["quarantine", *_] if self.quarantine:
                return "quarantine"
        return ""

    def _stale(self, entry: str) -> bool:
        try:
            return self.store.read_record(entry, repair=False)["plan"] not in self.plans
        except CorruptFile:
            return False


def _open(plan: StoredTasks, done: Done) -> Iterable[str]:
    """The tasks that may still be to do. A race that has not chosen yet may want each of its candidates."""
    if "races" not in plan.document:
        return missing(plan, done)
    whole = read_plan(done.store, plan.name)
    choices = Choices(whole, done.store)
    steps = [step for race in whole.races if choices.state(race, done).chosen is None for step in race.steps]
    return {*missing(choices.current(done), done), *behind_tasks(whole, steps)}


def _texts(value: Any) -> Iterator[str]:
    """Every text in the params of a task: contents of files and digests of code are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
