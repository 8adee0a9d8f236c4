"""A store that a group shares (`group` in the site file): who may read and write what is made in it.

The mark of such a store is its folder: setgid and group-writable, as `chmod g+rws` makes it. Folders that are made in
it are made alike, whatever the umask of whoever makes them (orchestrator.store.folders). It is sticky as well, so that
no member can replace what another one's jobs run.
"""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.store.folders import SHARED, is_shared

if TYPE_CHECKING:
    from orchestrator.backends.site import Site
    from orchestrator.store.store import Store

OF_GROUP = stat.S_IRWXG


def group_of(site: Site) -> int | None:
    """The number of the site's group. Raises BadInput if there is none of that name, or this user is not in it."""
    name = getattr(site.settings, "group", None)
    if name is None:
        return None
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadInput(f"{site.path}: group: there is no group {name!r} on this machine") from None
    if number not in (os.getegid(), *os.getgroups()) and os.geteuid():
        mine = ", ".join(sorted(_name(each) for each in {os.getegid(), *os.getgroups()}))
        raise BadInput(f"{site.path}: group: you are not in {name!r}. Your groups: {mine}.")
    return number


def _name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def share(store: Store, site: Site) -> None:
    """Give the store to the site's group, if it names one, and let the group read what this process makes from now on.
    Raises BadInput, or EnvironmentProblem for a store of somebody else that the group cannot write to.
    """
    group = group_of(site)
    if group is None:
        return
    os.umask(os.umask(0o077) & ~OF_GROUP)
    if not store.local:
        return
    root = Path(store.root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        about = root.stat()
        if about.st_gid == group and is_shared(about):
            return
        for folder, _, names in os.walk(root):
            if os.path.relpath(folder, root).partition(os.sep)[0] != "cluster":  # which has its own owners
                give(Path(folder), group)
            for name in names:
                _readable(os.path.join(folder, name), group)
        give(root, group, stat.S_ISVTX)
    except OSError as error:
        raise EnvironmentProblem(
            f"{store.url} cannot be given to group {_name(group)}: {error.strerror}. Its owner can: "
            f"chgrp {_name(group)} {store.root}; chmod g+rws,+t {store.root}"
        ) from error


def give(folder: Path, group: int, more: int = 0) -> None:
    """Let a group read and write a folder of this user; what is made in it belongs to the group."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(file, -1, group)
        os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) | SHARED | OF_GROUP | more)
    finally:
        os.close(file)


def _readable(path: str, group: int) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        about = os.fstat(file)
        if stat.S_ISREG(about.st_mode) and not about.st_mode & stat.S_IRGRP:
            os.fchown(file, -1, group)
            os.fchmod(file, stat.S_IMODE(about.st_mode) | stat.S_IRGRP)
    finally:
        os.close(file)


def own_folder(root: Path, user: str) -> Path:
    """The folder of this user's code and logs in a store: `cluster`, or in a group's store a folder in it. Everybody
    may make one there, and nobody can replace another one's.
    """
    folder = root / "cluster"
    if not root.is_dir() or not is_shared(root.stat()):
        return folder
    try:
        folder.mkdir()
        give(folder, root.stat().st_gid, stat.S_ISVTX)
    except FileExistsError:
        pass
    except OSError as error:
        raise EnvironmentProblem(f"{folder} cannot be made: {error.strerror}") from error
    return folder / user
