"""The layout of a folder of images, from names alone: its splits, its classes, and the files that are left out.

Splits are train/ or training/ beside held_out/, val/, valid/, validation/ or test/, in any case of letters. Left out
are the folders that systems put among images (JUNK), hidden files, and files of other kinds.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from nag.datasets.images import LATER_SUFFIXES, SUFFIXES

TRAIN = ("train", "training")
HELD_OUT = ("held_out", "val", "valid", "validation", "test")  # the first one that is there
JUNK = frozenset(("__macosx", "@eadir", "lost+found", "#recycle", "$recycle.bin", "system volume information"))
LABELS = "dataset.json"  # of EDM and StyleGAN: {"labels": [["00000/img00000000.png", 6], ...]}
FIRST = ("", "train", None, "held_out", "val", "test")  # the names of splits in the first release
SHOWN = 8  # kinds of files in a line

Counts = Iterable[tuple[str, str, int]]  # folder, suffix in lower case, number of files in it


class Listed(Protocol):
    """Files below a path, as `nag.datasets.listing.Listing` has them."""

    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def sizes(self) -> Sequence[int]: ...


class Layout(NamedTuple):
    train: str  # the folder of the training images, "" for the path itself
    held_out: str | None
    classes: tuple[str, ...]  # below `train`; empty: all images are one class


def layout_of(folders: tuple[str, ...]) -> Layout:
    """The layout of these folders (relative, with '/', sorted). Raises ValueError if a split has two spellings."""
    kept = [folder for folder in folders if not _is_junk(folder)]
    top = [folder for folder in kept if "/" not in folder]
    trains = _spelt(top, TRAIN)
    held_out = next(filter(None, (_spelt(top, (name,)) for name in HELD_OUT)), [])
    if trains:
        inside = tuple(_inside(kept, trains[0]))
        splits_alone = all(folder.lower() in (*TRAIN, *HELD_OUT) for folder in top)
        if splits_alone or (inside and (held_out or trains == [TRAIN[0]])):
            return Layout(_only(trains) or "", _only(held_out), inside)
    return Layout("", None, tuple(top))


def _spelt(top: list[str], names: tuple[str, ...]) -> list[str]:
    """The folders with one of these names; the first name alone if it is there in small letters."""
    return [names[0]] if names[0] in top else [folder for folder in top if folder.lower() in names]


def _only(spelt: list[str]) -> str | None:
    if len(spelt) > 1:
        raise ValueError(f"the folders {' and '.join(f'{name}/' for name in spelt)} are one split; keep one of them")
    return spelt[0] if spelt else None


def _inside(folders: Iterable[str], parent: str) -> list[str]:
    start = f"{parent}/"
    names = (folder[len(start) :] for folder in folders if folder.startswith(start))
    return [name for name in names if "/" not in name]


def _is_junk(folder: str) -> bool:
    return any(part in JUNK for part in folder.lower().split("/"))


def junk_below(folders: Iterable[str]) -> tuple[str, ...]:
    """How the names of files in junk folders begin."""
    return tuple(f"{folder}/" for folder in folders if folder.lower().rpartition("/")[2] in JUNK)


def files_in(listing: Listed, folder: str = "", suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[tuple[str, int]]:
    """Names and sizes of the images below a folder, without those in folders that systems put there."""
    start, junk = f"{folder}/" if folder else "", junk_below(listing.folders)
    for name, size in zip(listing.names, listing.sizes, strict=True):
        if name.startswith(start) and name.lower().endswith(suffixes) and not name.startswith(junk):
            yield name, size


def suffix(name: str) -> str:
    """The suffix of a name in small letters; for Thumbs.db and desktop.ini the name."""
    base = name.rpartition("/")[2]
    return base if base.lower() in ("thumbs.db", "desktop.ini") else os.path.splitext(base)[1].lower()


def labels_in(folder: str) -> str:
    """The name of the labels of a folder of images."""
    return f"{folder}/{LABELS}" if folder else LABELS


def read_otherwise(folders: tuple[str, ...], counts: Counts) -> bool:
    """Whether the first release read these folders in another way: then the data set must have another identity."""
    try:
        layout = layout_of(folders)
    except ValueError:
        return True
    junk, splits = junk_below(folders), {layout.train, layout.held_out}
    parents = {folder[:-1].rpartition("/")[0] for folder in junk}
    as_classes = layout.train in parents or ("" in parents and not layout.classes)
    images = [(f"{folder}/", kind) for folder, kind, _ in counts if kind in SUFFIXES]
    images = [(folder, kind) for folder, kind in images if not layout.train or folder.partition("/")[0] in splits]
    anew = any(kind in LATER_SUFFIXES or folder.startswith(junk) for folder, kind in images)
    return not splits <= {*FIRST} or as_classes or anew


def left_out(
    folders: tuple[str, ...],
    layout: Layout,
    counts: Counts,
    hidden: Mapping[str, int],
    labels: Iterable[str] = (),
    suffixes: tuple[str, ...] = SUFFIXES,
) -> str | None:
    """What is left out, in a line: "12 of 36 files are left out: 12 .heic"; None if nothing is. labels: the files that
    give labels, which are not.
    """
    kinds: Counter[str] = Counter(hidden)
    junk, total = junk_below(folders), sum(hidden.values())
    splits = {layout.train, layout.held_out}
    for folder, kind, count in counts:
        total += count
        top, used = folder.partition("/")[0], labels_in(folder) in labels and kind == ".json"
        if f"{folder}/".startswith(junk):
            kinds[f"in {next(name for name in junk if f'{folder}/'.startswith(name))}"] += count
        elif layout.train and folder and top not in splits:
            kinds[f"in {top}/"] += count
        elif kind not in suffixes and count - used:
            kinds[kind or "without a suffix"] += count - used
    if not kinds:
        return None
    known = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count:,} {kind}" for kind, count in known[:SHOWN]]
    words += [f"{sum(count for _, count in known[SHOWN:]):,} of other kinds"] if len(known) > SHOWN else []
    return f"{sum(kinds.values()):,} of {total:,} files are left out: {', '.join(words)}"


def readable(name: str) -> str:
    r"""A name as text that any encoding can write: a byte that is not UTF-8 becomes `\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def spelt_twice(names: Iterable[str]) -> list[str]:
    """A line for each two names that are one in Unicode (NFC and NFD): both look the same."""
    first: dict[str, str] = {}
    lines = []
    for name in names:
        other = first.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            lines.append(
                f"the classes {other!a} and {name!a} are one name in two Unicode spellings (NFC and NFD); "
                "if they are one class, merge their folders"
            )
    return lines
