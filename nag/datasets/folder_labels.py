"""Labels of images in a dataset.json of EDM and StyleGAN: {"labels": [["00000/img00000000.png", 6], ...]} or, for
images without classes, {"labels": null}. It lies in the folder of the images, or of each split.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from typing import Any

from nag.datasets.folder_layout import HELD_OUT, TRAIN, labels_in


def candidates(folders: Iterable[str]) -> list[str]:
    """Where labels may lie below a path: in the path itself, and in the folders of splits."""
    splits = [folder for folder in folders if "/" not in folder and folder.lower() in (*TRAIN, *HELD_OUT)]
    return [labels_in(folder) for folder in ("", *splits)]


def classes_in(path: str) -> int | None:
    """The number of classes of a dataset.json; None if the file is of another kind. Raises ValueError, naming the file,
    for labels that are not classes, numbered from 0.
    """
    labels = _read(path, os.stat(path).st_mtime_ns)
    return None if labels is None else max(labels.values(), default=0) + 1


def labels_by_name(path: str) -> dict[str, int]:
    """The label of each image, by its name relative to the folder; empty where all images are one class."""
    return _read(path, os.stat(path).st_mtime_ns) or {}


@functools.lru_cache(maxsize=2)
def _read(path: str, changed: int) -> dict[str, int] | None:
    del changed
    with open(path, "rb") as file:
        try:
            held = json.loads(file.read())
        except (ValueError, RecursionError):
            return None
    if not isinstance(held, dict) or "labels" not in held:
        return None
    labels = held["labels"]
    if labels is None:
        return {}
    if not isinstance(labels, list) or not all(map(_is_entry, labels)):
        return None
    for name, label in labels:
        if isinstance(label, bool) or not isinstance(label, int) or label < 0:
            raise ValueError(
                f"{path}: the label of {name} is {json.dumps(label)[:60]}; labels must be numbers of classes, from 0"
            )
    return dict(labels)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
