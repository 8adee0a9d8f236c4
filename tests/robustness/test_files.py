"""Checkpoints, data and references with random changes: a right answer, or one message that names the file."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.robustness import damaged_store, damaged_yaml
from tests.robustness.cases import Case, Outcome, Step, check, stream
from tests.robustness.finished import RUN_S, Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ON_DATA = """\
name: on_data
networks:
  sit:
    data: {name: npz, path: data.npz, held_out: 0.2}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels], metrics: [fid], reference: reference.npz}
arms:
  plain: {}
"""


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def pictures(chance: random.Random, count: int = 60, **changes: Any) -> dict[str, Any]:
    noise = np.random.default_rng(chance.randrange(10**6))
    return {
        "images": noise.integers(0, 256, (count, 8, 8, 1), np.uint8),
        "labels": noise.integers(0, 3, count),
    } | changes


def odd_archive(chance: random.Random) -> tuple[bytes, str]:
    """An archive that is whole, and whose arrays are not what an image data set has."""
    kind = chance.randrange(14)
    images = np.zeros((60, 8, 8, 1), np.uint8)
    made: dict[str, Any] = [
        {"images": images.astype(np.float32) + np.nan},
        {"images": images[:0], "labels": np.zeros(0, np.int64)},
        {"images": images[:1], "labels": np.zeros(1, np.int64)},
        {"images": images[0]},
        {"images": np.zeros((60, 8, 7, 5), np.uint8)},
        {"images": np.array(["x"] * 60)},
        {"images": np.array([{"a": 1}] * 60, dtype=object)},
        {"labels": np.zeros(59, np.int64)},
        {"labels": np.full(60, 10**12)},
        {"labels": np.full(60, -1)},
        {"labels": np.linspace(0, 1, 60)},
        {"labels": np.zeros((60, 2), np.int64)},
        {},
        {"images": images.astype(">i8"), "x/../y": images},
    ][kind]
    if kind == 12:  # small as a file
        file = io.BytesIO()
        np.savez_compressed(file, **pictures(chance, **{"images": np.zeros((60, 1600, 1600, 1), np.uint8)}))
        return file.getvalue(), "images of 150 MB in a small file"
    return archive(**pictures(chance, **made)), f"arrays of kind {kind}"


def damaged_archive(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    place = chance.randrange(len(data))
    kind = chance.randrange(6)
    if kind == 0:
        return data[:place], f"cut at {place}"
    if kind == 1:
        some = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4))))
        return data[:place] + some + data[place + len(some) :], f"bytes at {place}"
    if kind == 2:
        return chance.choice((b"", b"PK\x03\x04", b"\x93NUMPY\x01\0", bytes(1000))), "something else"
    names, file = {0: b"{", 1: b"\x93NUMPY\x03\0", 2: b"\0" * 200}, io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as new:
        for name in old.namelist():
            held = bytearray(old.read(name))
            at = chance.randrange(120)
            held[at : at + 4] = names[chance.randrange(3)] if kind < 5 else b"'x':"
            new.writestr(name, bytes(held))
    return file.getvalue(), "headers of its arrays"


class Files(Case):
    def __init__(self, number: int, finished: Finished, folder: Path) -> None:
        self.finished, self.chance = finished, stream("file", number)
        super().__init__("file", number, "", folder)
        self.work = folder / "work"
        self.changed = self.work / "nothing"

    def files(self) -> list[Path]:
        return (
            sorted(self.work.glob("*.npz")) + sorted(self.work.glob("*.safetensors")) + sorted(self.work.glob("*.yaml"))
        )

    def make(self) -> list[Step]:
        sweep = self._checkpoint() if self.chance.random() < 0.5 else self._archives()
        self.words = f"{self.changed.name}: {self.words}"
        named = (sweep.name, self.changed.name)
        store = ["--store", str(self.work / "store"), "--tracking", "none", "--workers", "1"]
        return [
            Step(["check", str(sweep)], named=named, heavy=True),
            Step(["check", "--deep", str(sweep)], named=named, heavy=True),
            Step(["run", str(sweep), *store], named=named, heavy=True, limit_s=RUN_S),
        ]

    def _checkpoint(self) -> Path:
        shutil.copyfile(self.finished.folder / "given.yaml", self.work / "given.yaml")
        self.changed = self.work / "given.safetensors"
        data = (self.finished.folder / "given.safetensors").read_bytes()
        if self.chance.random() < 0.75:
            made, self.words = damaged_store.network(data, self.chance)
        else:
            made, self.words = damaged_yaml.text(data, self.chance)
        self.changed.write_bytes(made)
        return self.work / "given.yaml"

    def _archives(self) -> Path:
        for name in ("data.npz", "reference.npz"):
            (self.work / name).write_bytes(archive(**pictures(self.chance)))
        self.changed = self.work / self.chance.choice(("data.npz", "reference.npz"))
        data = self.changed.read_bytes()
        change = self.chance.choice((lambda: odd_archive(self.chance), lambda: damaged_archive(data, self.chance)))
        made, self.words = change()
        self.changed.write_bytes(made)
        (self.work / "on_data.yaml").write_text(ON_DATA)
        return self.work / "on_data.yaml"

    def judge(self, outcomes: list[Outcome]) -> list[str]:
        """What `check --deep` calls good can be run."""
        _, deep, run = outcomes
        if deep.code == 0 and run.code != 0 and not run.hung and "not finite" not in run.err + run.out:
            return [f"check --deep calls it good, and run says: {(run.err or run.out)[-300:]}"]
        return []


def test_files(finished: Finished, tmp_path: Path) -> None:
    check(lambda number: Files(number, finished, tmp_path / str(number)), "file", 24, heavy=True)
