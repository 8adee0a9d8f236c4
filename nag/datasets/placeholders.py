"""Find files that stand where data should be: empty ones, and pointers of Git LFS. Only files as small as a pointer are
read; names and sizes are enough for the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from nag.datasets.folder_layout import readable
from nag.datasets.listing import SCANNERS, local

POINTER = b"version https://git-lfs"  # how a pointer begins (the specification of Git LFS, version 1)
POINTER_AT_MOST = 200  # bytes; they have about 130

Files = Iterable[tuple[str, int]]  # names below the path, and sizes in bytes


def is_pointer(path: str) -> bool:
    """Whether a local file is a pointer. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER


def empty(path: str, files: Files, what: str = "image files") -> str | None:
    """A line that says how many files are empty, or None."""
    names = [name for name, size in files if not size]
    return f"{path}: {len(names)} {what} are empty, such as {readable(names[0])}" if names else None


def pointers(path: str, files: Files) -> str | None:
    """A line that says how many files are pointers of Git LFS, or None. Raises OSError if one cannot be read."""
    files = list(files)
    small = [(name, size) for name, size in files if len(POINTER) <= size <= POINTER_AT_MOST]
    with ThreadPoolExecutor(SCANNERS) as pool:
        found = [
            name
            for (name, _), yes in zip(small, pool.map(lambda one: is_pointer(local(path, *one)), small), strict=True)
            if yes
        ]
    if not found:
        return None
    return (
        f"{path}: {len(found):,} of {len(files):,} files are pointers of Git LFS, such as {readable(found[0])}; their "
        "content was not fetched: run 'git lfs pull' in their repository"
    )
