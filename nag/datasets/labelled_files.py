"""The files of a split with their labels: from class folders, or from a dataset.json of EDM."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nag.datasets.folder_layout import files_in, labels_in, layout_of, left_out, spelt_twice
from nag.datasets.images import SUFFIXES

if TYPE_CHECKING:
    from nag.datasets.listing import Listing

Indexed = tuple[list[tuple[str, int]], list[int]]  # names with sizes in bytes, and labels


class Kind(NamedTuple):
    """A kind of files that a data set is made of."""

    words: str
    suffixes: tuple[str, ...]


IMAGES, LATENTS = Kind("images", SUFFIXES), Kind("latents", (".npy",))


def classes_in(listing: Listing) -> int:
    """The number of classes, from the cached listing without its names."""
    layout = layout_of(listing.folders)
    return dict(listing.labels).get(labels_in(layout.train)) or max(1, len(layout.classes))


def class_names(listing: Listing) -> tuple[str, ...]:
    """The names of the class folders, in the order of their labels, with bytes that are not UTF-8 as os.fsdecode has
    them; () if a dataset.json numbers the classes, or there is one class without a folder.
    """
    layout = layout_of(listing.folders)
    return () if labels_in(layout.train) in dict(listing.labels) else layout.classes


def notes(listing: Listing, kind: Kind = IMAGES) -> list[str]:
    """What to know of the files, one line each: which are left out, and classes that look the same."""
    layout = layout_of(listing.folders)
    given = [name for name in map(labels_in, (layout.train, layout.held_out or "")) if name in dict(listing.labels)]
    labels = [f"{given[0]} gives the labels"] if given else []
    passed = left_out(listing.folders, layout, listing.counts, dict(listing.hidden), given, kind.suffixes)
    return [*labels, *([passed] if passed else []), *spelt_twice(class_names(listing))]


def indexed(path: str, listing: Listing, split: str, kind: Kind = IMAGES) -> Indexed:
    """The files of a split, in the order of their names. Without a held-out folder, both splits are all files. Raises
    ValueError, naming the path, for files without a class and classes without files.
    """
    layout = layout_of(listing.folders)
    apart = split == "held_out" and layout.held_out is not None
    folder = layout.held_out or "" if apart else layout.train
    if labels_in(layout.train) in dict(listing.labels):
        return _by_file(path, listing, folder, classes_in(listing), kind)
    return _by_folder(path, listing, folder, layout.classes, complete=not apart, kind=kind)


def _by_folder(
    path: str, listing: Listing, folder: str, classes: tuple[str, ...], complete: bool, kind: Kind
) -> Indexed:
    """Files of class folders. `complete`: each class must have one."""
    number = {name: label for label, name in enumerate(classes)}
    start = f"{folder}/" if folder else ""
    where = f"{path.rstrip('/')}/{folder}".rstrip("/")
    files, labels = [], []
    for name, size in files_in(listing, folder, kind.suffixes):
        first, inside, _ = name[len(start) :].partition("/")
        if classes and not inside:
            raise ValueError(
                f"{path.rstrip('/')}/{name} is next to the class folders; each of the {kind.words} belongs in one"
            )
        if classes and first not in number:
            raise ValueError(f"{where}/{first} is not a class of the training {kind.words}")
        files.append((name, size))
        labels.append(number.get(first, 0))
    if not files:
        raise ValueError(f"there are no {kind.words} below {where}")
    bare = sorted(set(classes) - {classes[label] for label in labels}) if classes and complete else []
    if bare:
        raise ValueError(
            f"{where}/{bare[0]} has no {kind.words} ({len(bare)} of {len(classes)} class folders have none)"
        )
    return files, labels


def _by_file(path: str, listing: Listing, folder: str, classes: int, kind: Kind) -> Indexed:
    """Files whose labels a dataset.json gives."""
    from nag.datasets.folder_labels import labels_by_name
    from nag.datasets.listing import local

    name = labels_in(folder)
    where = f"{path.rstrip('/')}/{name}"
    if name not in dict(listing.labels):
        raise ValueError(f"there is no {where}, but the training {kind.words} have theirs")
    given = labels_by_name(local(path, name, dict(zip(listing.names, listing.sizes, strict=True))[name]))
    files = list(files_in(listing, folder, kind.suffixes))
    if not files:
        raise ValueError(f"there are no {kind.words} below {where.removesuffix(name)}{folder}")
    if not given:
        return files, [0] * len(files)
    start = len(folder) + 1 if folder else 0
    bare = [name for name, _ in files if name[start:] not in given]
    if bare:
        raise ValueError(f"{where} has no label for {bare[0]} ({len(bare):,} of {len(files):,} {kind.words} have none)")
    labels = [given[name[start:]] for name, _ in files]
    if max(labels) >= classes:
        raise ValueError(f"{where} has class {max(labels)}, the training {kind.words} only {classes}")
    return files, labels
