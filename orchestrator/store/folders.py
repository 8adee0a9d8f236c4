"""Files in a folder to which others can write too: no symbolic link below the root is followed to create, change or
delete a file.

Functions take the root, whose own path may have links, and a name below it with forward slashes. They raise OSError.
`exposed` says whether others could put their code into a folder.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import os
import pwd
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)
CLAIM_S = 30.0  # the process of an older claim has died: a claim is held for one rename only
SHARED = stat.S_ISGID | stat.S_IWGRP  # of a folder that a group shares
LINKS_AT_MOST = 40  # in a chain, as in Linux
TEMPORARY = r"\..+\.(?:[0-9a-f]{32}|claim-[0-9]{1,9})"  # unfinished files of `create`

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NOBODY = 65534  # in a container, the apparent owner of files whose real owner it does not know


@contextlib.contextmanager
def inside(root: str, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder of root/name, and the last part of the name. make: create missing folders."""
    *parts, base = name.split("/")
    if not {*parts, base}.isdisjoint(("", ".", "..")):
        raise OSError(errno.EINVAL, "not a name below a folder", name)
    folder = _opened(root, None, make, lambda: os.makedirs(root, exist_ok=True))
    try:
        for place, part in enumerate(parts, 1):
            try:
                inner = _opened(part, folder, make, functools.partial(_make_folder, part, folder))
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                words = f"{'/'.join(parts[:place])} is a link or a file, not a folder; it is not followed"
                raise OSError(errno.ELOOP, words) from error
            os.close(folder)
            folder = inner
        yield folder, base
    finally:
        os.close(folder)


def _opened(name: str, parent: int | None, make: bool, create: Callable[[], None]) -> int:
    """A descriptor of a folder, which is created only if it is missing: a file server makes others wait for that."""
    flags = _FOLDER if parent is None else _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        create()
    return os.open(name, flags, dir_fd=parent)


@contextlib.contextmanager
def closed_to_others() -> Iterator[None]:
    """For files that jobs of this user trust, such as code: only this user may write to what is made meanwhile."""
    before = umask()
    os.umask(before | stat.S_IWGRP | stat.S_IWOTH)
    try:
        yield
    finally:
        os.umask(before)


def umask() -> int:
    """The umask of this process."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def is_shared(about: os.stat_result) -> bool:
    """Whether a folder is a group's: its group may write to it, and what is made in it belongs to that group."""
    return about.st_mode & SHARED == SHARED


def _make_folder(name: str, parent: int) -> None:
    """Make a folder; in a group's folder the group may write to it too, whatever the umask."""
    os.mkdir(name, dir_fd=parent)
    if is_shared(os.fstat(parent)):
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.fchmod(made, stat.S_IMODE(os.fstat(made).st_mode) | SHARED | stat.S_IRGRP | stat.S_IXGRP)
        finally:
            os.close(made)


def _give_group(file: int, folder: int, rights: int) -> None:
    """Give the group rights on a new file of this user, if it is in a group's folder."""
    about = os.fstat(file)
    if is_shared(os.fstat(folder)) and about.st_uid == os.geteuid() and about.st_mode & rights != rights:
        os.fchmod(file, stat.S_IMODE(about.st_mode) | rights)


def create(root: str, name: str, data: bytes) -> bool:
    """Publish a whole file; False if there is one of that name already. A dangling link is replaced."""
    with inside(root, name, make=True) as (folder, base):
        temporary = f".{base}.{uuid.uuid4().hex}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                _give_group(file.fileno(), folder, stat.S_IRGRP)
                file.write(data)
            _claim(temporary, base, folder, _is_dangling_link, lambda: os.unlink(base, dir_fd=folder))
            try:  # fails if the name is taken: the first writer wins
                os.link(temporary, base, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                    return os.path.samestat(_lstat(temporary, folder), _lstat(base, folder))  # NFS may lose the answer
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                move_there = functools.partial(os.replace, temporary, base, src_dir_fd=folder, dst_dir_fd=folder)
                return _claim(temporary, base, folder, _is_free, move_there)
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)


def _lstat(name: str, folder: int) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _is_free(name: str, folder: int) -> bool:
    try:
        _lstat(name, folder)
    except FileNotFoundError:
        return True
    return False


def _is_dangling_link(name: str, folder: int) -> bool:
    try:
        if not stat.S_ISLNK(_lstat(name, folder).st_mode):
            return False
    except FileNotFoundError:
        return False
    try:
        os.stat(name, dir_fd=folder)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ELOOP)
    return False


def _claim(mine: str, base: str, folder: int, wanted: Callable[[str, int], bool], change: Callable[[], object]) -> bool:
    """Call `change` if `wanted` holds for a name, in one process only: the one that creates a claim file for the name.
    If the process that holds a claim has died, the next claim counts. False if `wanted` does not hold (any more). mine:
    a file of this process, to read the clock of the file system.
    """
    number = 0
    while wanted(base, folder):
        claim = f".{base}.claim-{number}"
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=folder))
        except FileExistsError:
            number += _is_old(claim, mine, folder)
            time.sleep(0.01)
            continue
        try:
            if wanted(base, folder):
                change()
                return True
        finally:
            for old in range(number + 1):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f".{base}.claim-{old}", dir_fd=folder)
    return False


def _is_old(claim: str, mine: str, folder: int) -> bool:
    """Whether the process that made a claim must have died, by the clock of the file system."""
    os.utime(mine, dir_fd=folder)
    try:
        return _lstat(mine, folder).st_mtime - _lstat(claim, folder).st_mtime > CLAIM_S
    except FileNotFoundError:
        return False


def read(path: str, follow: bool = True) -> bytes:
    """The bytes of a regular file; anything else, such as a pipe that never ends, is an error."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with open(os.open(path, flags), "rb") as file:
        _check_regular(file.fileno())
        return file.read()


def append(root: str, name: str) -> int:
    """A descriptor that appends to a file, which is created if missing. Refuses symbolic links, and files with a second
    name (hard link).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with inside(root, name, make=True) as (folder, base):
        file = os.open(base, flags, 0o644, dir_fd=folder)
        _give_group(file, folder, stat.S_IRGRP | stat.S_IWGRP)
    try:
        _check_regular(file)
        if os.fstat(file).st_nlink > 1:
            raise OSError(errno.EMLINK, "the file has a second name elsewhere (a hard link)", name)
    except BaseException:
        os.close(file)
        raise
    return file


def _check_regular(file: int) -> None:
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {what}")


def delete(root: str, name: str) -> None:
    with inside(root, name) as (folder, base):
        os.unlink(base, dir_fd=folder)


def delete_folder(root: str, name: str) -> None:
    """Delete a folder if it is empty."""
    with inside(root, name) as (folder, base):
        os.rmdir(base, dir_fd=folder)


def move(root: str, name: str, target: str) -> None:
    """Rename a file or whatever is in its place. A link itself is renamed, not its target."""
    with inside(root, name) as (source, base), inside(root, target, make=True) as (folder, new):
        os.rename(base, new, src_dir_fd=source, dst_dir_fd=folder)


def exposed(folder: Path, trusted: int | None = None) -> str:
    """Why others than this user and root could put files into a folder, or replace it by another; "" if they could not.
    The folder must exist. trusted: a group whose folders above it may be another member's.
    """
    target = Path(os.path.realpath(folder))
    for place in sorted({target, *target.parents, *_on_the_way(Path(os.path.abspath(folder)))}):
        about = os.lstat(place)
        of_group = trusted is not None and about.st_gid == trusted and stat.S_ISDIR(about.st_mode)
        known = about.st_uid in (0, _NOBODY) or of_group
        if about.st_uid != os.geteuid() and (place == target or not known):
            return f"{place} is not yours (its owner is user {about.st_uid})"
        writable = about.st_mode & (stat.S_IWOTH | (0 if _is_own(about.st_gid) else stat.S_IWGRP))
        sticky = bool(about.st_mode & stat.S_ISVTX) and place != target
        if writable and not sticky and not stat.S_ISLNK(about.st_mode):
            return f"others can write to {place}"
    return ""


def _is_own(group: int) -> bool:
    """Whether a group is this user's private group, with nobody else in it."""
    try:
        user, about = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return group == user.pw_gid and about.gr_name == user.pw_name and {*about.gr_mem} <= {user.pw_name}


def _on_the_way(path: Path, links: int = 0) -> Iterator[Path]:
    """The folders and links that a path leads through."""
    for place in (path, *path.parents):
        yield place
        if place.is_symlink() and links < LINKS_AT_MOST:
            yield from _on_the_way(Path(os.path.abspath(place.parent / os.readlink(place))), links + 1)
