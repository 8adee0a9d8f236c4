"""The files of a data set in a folder or at a URL: names, sizes, a checksum, local copies.

The checksum is of names, sizes and content. Small files are read whole, and four pieces of larger ones; for formats
without compression, whose sizes say nothing about the content, the limit is higher. In a data set of more than EVERY
files only SAMPLE are read, those whose hashed names come first: opening a million files takes minutes on a network
disk.

Earlier releases read some folders of images in another way (`folder_layout.read_otherwise`): their checksum also has
the number READING. Where a dataset.json gives the labels, all of its content counts.

Listings are cached. One of a local folder is valid until a folder below it changes, or one of the first STAMPED files
in that order; one of a URL, where folders have no modification times, until the top level changes. `fresh` reads it
again. Names that begin with a dot are counted, and ignored otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from nag import cache, locations, web
from nag.datasets import folder_labels, folder_layout
from nag.locations import is_url as _is_url
from nag.locations import path_of as _place
from nag.locations import reached
from nag.whole_file import whole_file

DEEPEST = 32  # levels of folders; more means a link to its own parent
SETTLED_S = 2.0  # a folder that changed this recently may change again within one tick of its clock
SCANNERS = 16  # threads: on a network disk most of the time is waiting
FORMAT = 4  # of a cached listing
READING = 2  # of folders of images, which is part of the checksum where it differs from 1
HIDDEN = 20  # names that begin with a dot and are counted each
EVERY, SAMPLE, STAMPED = 65_536, 16_384, 1_024  # files
WHOLE, PIECES = 65_536, 4  # bytes that are read of a file; if it is larger, in this many pieces
PLAIN_SUFFIXES, PLAIN_WHOLE = (".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".npy", ".raw"), 1 << 20
AT_ONCE = 128  # remote files that are read at once
QUICK = 1 << 28  # bytes of the largest single file that is read without `compute`


class Listing(NamedTuple):
    """The files at a path. Names are relative, with '/', sorted; a single file has the one name ''."""

    checksum: str  # of names, sizes and content; of a single file, of its content
    folders: tuple[str, ...]  # all below the path, sorted, also empty ones (a URL has no empty folders)
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # bytes
    counts: tuple[tuple[str, str, int], ...] = ()  # folder, suffix in lower case, number of such files in it
    hidden: tuple[tuple[str, int], ...] = ()  # names that begin with a dot, and how often they occur
    labels: tuple[tuple[str, int], ...] = ()  # each dataset.json that gives labels, and its number of classes


def read_listing(
    path: str, *, fresh: bool = False, names: bool = True, compute: bool = True, folder: bool = False
) -> Listing:
    """The listing of a folder, a file or a URL. Without `names`, a cached one is read only up to its folders. Without
    `compute`, a single local file of more than QUICK bytes that was never read gets a checksum equal to no other.

    Raises FileNotFoundError if nothing is there; ValueError if the path is refused (`locations.refusal`), is neither a
    file nor a folder, or is a single file where a `folder` is needed (it is not read); locations.Unreachable.
    """
    place = _place(path)
    if (reason := locations.refusal(path)) is not None:
        raise ValueError(reason)
    if folder and not _is_url(path) and os.path.isfile(place):
        raise ValueError(f"{path} is a file, not a folder")
    where = str(place) if _is_url(path) else os.path.realpath(place)
    kept = cache.folder("listings") / f"{digest(where)}.json"
    cached = None if fresh else _read(kept, path, names)
    if cached is not None:
        return cached
    started = time.time_ns()
    folders, sizes, stamps, hidden = _scan_url(path) if _is_url(path) else _scan(place)
    ordered = tuple(sorted(sizes))
    if folder and ordered == ("",):
        raise ValueError(f"{path} is a file, not a folder")
    if not compute and ordered == ("",) and not _is_url(path) and sizes[""] > QUICK:
        return Listing(f"unread {digest(json.dumps([where, sizes[''], stamps['']]))}", (), ordered, (sizes[""],))
    chosen = _first(ordered, len(ordered) if len(ordered) <= EVERY else SAMPLE)
    labelled = [name for name in folder_labels.candidates(folders) if name in sizes]
    files = {} if _is_url(path) else {name: _changed(place, name) for name in (*chosen[:STAMPED], *labelled)}
    checksum = _content(local(path)) if ordered == ("",) else _checksum(path, ordered, sizes, chosen)
    given = [(name, folder_labels.classes_in(local(path, name, sizes[name]))) for name in labelled]
    labels = [(name, classes) for name, classes in given if classes is not None]
    counts = _counted(ordered)
    if labels or folder_layout.read_otherwise(folders, counts):
        contents = [_content(local(path, name, sizes[name])) for name, _ in labels]
        checksum = digest(json.dumps([checksum, READING, contents]))
    listing = Listing(checksum, folders, ordered, tuple(sizes[name] for name in ordered), counts, hidden, (*labels,))
    if all(isinstance(stamp, str) or stamp < started - SETTLED_S * 1e9 for stamp in stamps.values()):
        head = {"format": FORMAT, "where": where, "stamps": stamps, "checksum": checksum, "folders": folders}
        head |= {"files": files, "counts": counts, "hidden": hidden, "labels": labels}
        cache.keep(kept, "".join(f"{json.dumps(part)}\n" for part in (head, listing.names, listing.sizes)))
    return listing


def local(path: str, name: str = "", size: int = 0) -> str:
    """The local path of a file of the data set. A remote file is downloaded once, and cached by URL, name and size.

    It gets its name only when it is complete; fsspec's own file caches write in place, so that a second process could
    read half a file. Raises OSError if it does not have the listed size.
    """
    if not _is_url(path):
        return os.path.join(_place(path), name) if name else _place(path)
    if locations.is_web(path):
        return _local_web(path)
    system, root = locations.system(path)
    with reached(path):
        token: Any = size if name else str(system.checksum(root))
    key = digest(json.dumps([path, name, token]))
    kept = cache.folder("files") / key[:2] / key
    if not kept.exists():
        with whole_file(kept) as temporary:
            with reached(path):
                system.get_file(f"{root.rstrip('/')}/{name}" if name else root, str(temporary))
            received = temporary.stat().st_size
            if name and received != size:
                raise OSError(f"{path.rstrip('/')}/{name} has {received} bytes; {size} are listed")
    return str(kept)


def _local_web(url: str) -> str:
    """A local copy of the file at an http address."""
    key = digest(json.dumps([url, web.stamp(url)]))
    kept = cache.folder("files") / key[:2] / key
    if not kept.exists():
        with whole_file(kept) as temporary, temporary.open("wb") as file:
            for data, _ in web.received(url):
                file.write(data)
    return str(kept)


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _counted(names: Iterable[str]) -> tuple[tuple[str, str, int], ...]:
    """How many files of each suffix a folder has."""
    counts = Counter((name.rpartition("/")[0], folder_layout.suffix(name)) for name in names)
    return tuple((folder, suffix, count) for (folder, suffix), count in sorted(counts.items()))


def _hidden(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """How often each name that begins with a dot occurs. All that macOS writes beside a file (._NAME) are one."""
    counts = Counter("._*" if name.startswith("._") else name for name in names)
    common = counts.most_common(HIDDEN)
    rest = counts.total() - sum(count for _, count in common)
    return tuple(sorted(common)) + ((("hidden", rest),) if rest else ())


def _first(names: tuple[str, ...], count: int) -> list[str]:
    """The first names in the order of their hashes: the same ones wherever the data set is."""
    return sorted(names, key=digest)[:count]


def _checksum(path: str, names: tuple[str, ...], sizes: dict[str, int], chosen: list[str]) -> str:
    """The checksum of names and sizes, and of the content of the chosen files."""
    hashed = hashlib.blake2b(digest_size=16)
    for name in names:
        hashed.update(f"{name}\0{sizes[name]}\0".encode("utf-8", "surrogateescape"))
    wanted = [(name, _pieces(name, sizes[name])) for name in sorted(chosen)]
    for part in _contents_at(path, wanted) if _is_url(path) else _contents(_place(path), wanted):
        hashed.update(part)
    return hashed.hexdigest()


def _pieces(name: str, size: int) -> list[tuple[int, int]]:
    """Start and end of each piece that is read; the first and the last piece are at the ends of the file."""
    whole = PLAIN_WHOLE if name.lower().endswith(PLAIN_SUFFIXES) else WHOLE
    if size <= whole:
        return [(0, size)] if size else []
    length = whole // PIECES
    starts = [(size - length) * i // (PIECES - 1) for i in range(PIECES)]
    return [(start, start + length) for start in starts]


Wanted = list[tuple[str, list[tuple[int, int]]]]


def _contents(root: str, wanted: Wanted) -> Iterator[bytes]:
    """A hash of the pieces of each local file."""

    def read(name: str, pieces: list[tuple[int, int]]) -> bytes:
        hashed = hashlib.blake2b(digest_size=16)
        place = os.path.join(root, name)
        try:
            with open(place, "rb") as file:
                for start, end in pieces:
                    file.seek(start)
                    hashed.update(file.read(end - start))
        except FileNotFoundError as error:
            raise ValueError(f"{place} was removed while it was read") from error
        return hashed.digest()

    parts = [wanted[first : first + 64] for first in range(0, len(wanted), 64)]
    with ThreadPoolExecutor(SCANNERS) as pool:
        for digests in pool.map(lambda part: [read(*one) for one in part], parts):
            yield from digests


def _contents_at(url: str, wanted: Wanted) -> Iterator[bytes]:
    """A hash of the pieces of each remote file, by many range requests at once."""
    system, root = locations.system(url)
    base = root.rstrip("/")
    for first in range(0, len(wanted), AT_ONCE):
        batch = wanted[first : first + AT_ONCE]
        ranges = [(f"{base}/{name}", start, end) for name, pieces in batch for start, end in pieces]
        with reached(url):
            contents = system.cat_ranges(*map(list, zip(*ranges, strict=True)), on_error="raise") if ranges else []
        parts = iter(contents)
        for _, pieces in batch:
            hashed = hashlib.blake2b(digest_size=16)
            for _ in pieces:
                hashed.update(next(parts))
            yield hashed.digest()


def _changed(root: str, name: str) -> list[int]:
    """Size and modification time, to notice changes; of a single file also ctime and inode, which nobody can set."""
    stat = os.stat(os.path.join(root, name) if name else root)
    return [stat.st_size, stat.st_mtime_ns] + ([] if name else [stat.st_ctime_ns, stat.st_ino])


Hidden = tuple[tuple[str, int], ...]


def _scan(root: str) -> tuple[tuple[str, ...], dict[str, int], dict[str, int], Hidden]:
    """Folders, file sizes by name, modification times of root and folders by name, and hidden names."""
    if os.path.isfile(root):
        stat = os.stat(root)
        return (), {"": stat.st_size}, {"": stat.st_mtime_ns}, ()
    if not os.path.isdir(root):
        if what := locations.irregular(root):
            raise ValueError(f"{root} is {what}, not a file or folder")
        raise FileNotFoundError(f"there is no file or folder {root!r}")
    sizes: dict[str, int] = {}
    stamps: dict[str, int] = {}
    hidden: list[str] = []
    level = [""]
    with ThreadPoolExecutor(SCANNERS) as pool:
        for _ in range(DEEPEST):
            scans = list(pool.map(lambda folder: _one(root, folder), level))
            stamps |= {folder: stamp for folder, (stamp, *_) in zip(level, scans, strict=True)}
            for _, _, files, names in scans:
                sizes |= files
                hidden += names
            level = [inner for _, inside, *_ in scans for inner in inside]
            if not level:
                return tuple(sorted(set(stamps) - {""})), sizes, stamps, _hidden(hidden)
    raise ValueError(f"{root}: folders nest deeper than {DEEPEST}; does a link lead back, as {level[0]!r} seems to?")


def _one(root: str, folder: str) -> tuple[int, list[str], dict[str, int], list[str]]:
    """A folder's modification time, its subfolders, the sizes of its files (names are relative to the root), and the
    names in it that begin with a dot.
    """
    place = os.path.join(root, folder)
    stamp, inside, files, hidden = os.stat(place).st_mtime_ns, [], {}, []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                hidden.append(f"{entry.name}/" if entry.is_dir() else entry.name)
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                inside.append(name)
            elif entry.is_file():
                files[name] = entry.stat().st_size
            else:
                raise ValueError(f"{entry.path} is neither a file nor a folder; a link to nothing?")
    return stamp, inside, files, hidden


def _scan_url(path: str) -> tuple[tuple[str, ...], dict[str, int], dict[str, str], Hidden]:
    if locations.is_web(path):
        return (), {"": os.stat(_local_web(path)).st_size}, {"": web.stamp(path)}, ()
    system, root = locations.system(path)
    with reached(path):
        system.invalidate_cache()
        if not system.exists(root):
            raise FileNotFoundError(f"there is nothing at {path!r}")
        if system.isfile(root):
            return (), {"": system.size(root)}, {"": str(system.checksum(root))}, ()
        start = len(root.rstrip("/")) + 1
        every = {name[start:]: info["size"] for name, info in system.find(root, detail=True).items()}
        dotted = {name: next((w for w in name.split("/") if w.startswith(".")), "") for name in every}
        sizes = {name: size for name, size in every.items() if not dotted[name]}
        folders = {name.rsplit("/", i + 1)[0] for name in sizes for i in range(name.count("/"))}
        hidden = _hidden(word for word in dotted.values() if word)
        return tuple(sorted(folders)), sizes, {"": _top(system, root)}, hidden


def _top(system: Any, root: str) -> str:
    """A digest of the first level below a URL, in one request: names, and attributes that change with a file."""
    fields = ("size", "ETag", "etag", "LastModified", "updated", "mtime", "created")
    shown = [[str(entry["name"]), *(str(entry.get(key)) for key in fields)] for entry in system.ls(root, detail=True)]
    return digest(json.dumps(sorted(shown)))


def _read(kept: Path, path: str, names: bool) -> Listing | None:
    """The cached listing, or None if there is none or it is out of date, damaged or of another format."""
    try:
        with open(kept, encoding="utf-8", errors="surrogateescape") as file:
            head = json.loads(file.readline())
            if head["format"] != FORMAT or not _holds(path, head["stamps"], head["files"]):
                return None
            parts = [tuple(json.loads(file.readline())) for _ in range(2)] if names else [(), ()]
            more = [tuple(map(tuple, head[key])) for key in ("counts", "hidden", "labels")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Listing(head["checksum"], tuple(head["folders"]), *parts, *more)


def _holds(path: str, stamps: dict[str, Any], files: dict[str, list[int]]) -> bool:
    if locations.is_web(path):
        return bool(stamps[""] == web.stamp(path))
    if _is_url(path):
        system, root = locations.system(path)
        with reached(path):
            system.invalidate_cache()
            single = system.isfile(root)
            return bool(stamps[""] == (str(system.checksum(root)) if single else _top(system, root)))
    place = _place(path)
    folders = all(_changed(place, name)[1] == stamp for name, stamp in stamps.items())
    return folders and all(_changed(place, name) == before for name, before in files.items())


def _content(path: str) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            hashed.update(part)
    return hashed.hexdigest()
