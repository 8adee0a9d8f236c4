"""A file appears whole or not at all, the first writer wins, and damage is detected."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.commands.options import absolute
from orchestrator.errors import BadInput, CorruptFile, EnvironmentProblem, MissingFile
from orchestrator.store.arrays import pack, unpack
from orchestrator.store.store import Store

ARRAYS = {
    "samples": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    "latents": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "labels": np.array([3, 1, 2], dtype=np.int64),
    "none": np.zeros((0, 4), dtype=np.float32),
}


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    store.open()
    return store


def test_the_first_writer_wins(store: Store) -> None:
    assert store.create("a/b.json", b"first")
    assert not store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert store.list("a") == ["b.json"]
    assert store.list("nothing") == []
    with pytest.raises(MissingFile, match="a/c is not in the store"):
        store.read("a/c")


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_sixty_four_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """They write one file: one wins, and a reader sees nothing or a whole file."""
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    store = Store(str(tmp_path))
    data = [bytes([i]) * 300_000 for i in range(64)]
    stop, seen = threading.Event(), set()

    def watch() -> None:
        while not stop.is_set():
            try:
                found = store.read("x/file")
            except FileNotFoundError:
                continue
            seen.add((len(found), len(set(found))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda part: store.create("x/file", part), data))
    stop.set()
    watcher.join()
    assert seen <= {(300_000, 1)}
    assert store.read("x/file") in data
    assert os.listdir(tmp_path / "x") == ["file"], "no temporary file stays"
    assert sum(won) == 1
    assert store.read("x/file") == data[won.index(True)]


def refuse(source: str, target: str, **folders: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_a_writer_that_died_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died between its claim and its file; others wait for it, then one of them takes over."""
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("orchestrator.store.folders.CLAIM_S", 2.0)
    store = Store(str(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".file.claim-0").touch()
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(store.create, "x/file", bytes([number]) * 1000) for number in range(8)]
        time.sleep(0.2)
        assert not any(each.done() for each in made)
        assert sum(each.result() for each in made) == 1
    assert len(set(store.read("x/file"))) == 1
    assert os.listdir(tmp_path / "x") == ["file"]


def test_a_disk_that_is_full_is_no_lack_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str, **folders: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        Store(str(tmp_path)).create("x/file", b"x")
    assert os.listdir(tmp_path / "x") == []


def test_arrays(store: Store) -> None:
    record = {"kind": "sample", "first": 0, "seconds": 0.5}
    assert store.create_arrays("blocks/x/000000.safetensors", ARRAYS, record)
    arrays, found = store.read_arrays("blocks/x/000000.safetensors")
    assert found == record
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_equal_content_is_equal_bytes() -> None:
    again = {name: ARRAYS[name].copy() for name in reversed(list(ARRAYS))}
    assert pack(ARRAYS, {"a": 1, "b": [2]}) == pack(again, {"b": [2], "a": 1})


def test_every_bit_and_every_length_is_guarded() -> None:
    """A flipped bit anywhere, or a truncation at any length, is detected (or changes nothing that is read)."""
    arrays = {"x": np.arange(8, dtype=np.float32)}
    data = pack(arrays, {"n": 8})
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        try:
            found, record = unpack(bytes(flipped))
        except ValueError:
            continue
        assert record == {"n": 8}
        np.testing.assert_array_equal(found["x"], arrays["x"])
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            unpack(data[:length])


def test_records(store: Store) -> None:
    store.create_record("notes/x.json", {"value": 1.5, "none": None})
    assert store.read_record("notes/x.json") == {"value": 1.5, "none": None}
    assert not store.create_record("notes/x.json", {"value": 2})


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"value": 2, "checksum": "00"}', b"[1]", b"\xff\xfe", b"null", b'{"val']
)
def test_a_damaged_record_is_set_aside(store: Store, data: bytes) -> None:
    store.create("records/x.json", data)
    with pytest.raises(CorruptFile, match=r"records/x.json does not match its checksum"):
        store.read_record("records/x.json", repair=False)
    assert store.list("records") == ["x.json"]
    with pytest.raises(CorruptFile):
        store.read_record("records/x.json")
    assert store.list("records") == []
    (kept,) = store.list("quarantine/records")
    assert store.read(f"quarantine/records/{kept}") == data


def test_a_store_of_another_format(store: Store) -> None:
    store.open()
    store.open()
    store.check_format()
    store.delete("nagbench.json")
    store.create("nagbench.json", b'{"format": 7}')
    with pytest.raises(BadInput, match="has format 7, this nagbench writes format 1"):
        store.open()


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "nagbench.json").write_text("hello")
    with pytest.raises(BadInput, match=r"is this a nagbench store\?"):
        Store(str(tmp_path)).check_format()


def test_unknown_and_unwritable_urls(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nosuch"):
        Store("nosuch://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        Store(str(tmp_path / "file" / "store")).create("x", b"1")


@pytest.mark.parametrize("url", ["memory://x", "github://org:repo@main/x", "s3:/bucket/x", "s3:bucket::x", "ftp://x"])
def test_a_place_that_cannot_be_a_store_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nag.locations._for_tests", set())
    monkeypatch.chdir(tmp_path)
    for place in (url, absolute(url)):
        with pytest.raises(BadInput, match=r"store .*: .*(unknown protocol|a slash is missing|cannot be joined)"):
            Store(place)
    assert not list(tmp_path.iterdir())
