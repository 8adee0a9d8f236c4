"""Listings of folders and URLs: what is in the identity of a data set, and when a kept listing still holds."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from nag.datasets import listing as files
from nag.datasets.dataset import listing


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/deeper/3.png", "notes.txt"):
        write(tmp_path / "data" / name, name.encode())
    (tmp_path / "data/empty").mkdir()
    return settled(tmp_path / "data")


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def settled(root: Path) -> Path:
    """As if nothing had changed for a minute: a listing of it may be kept."""
    before = time.time() - 60
    for folder, _, _ in os.walk(root):
        os.utime(folder, (before, before))
    return root


def memory(name: str, contents: dict[str, bytes]) -> str:
    """A folder of the fsspec file system in this process's memory."""
    system = fsspec.filesystem("memory")
    if system.exists(f"/{name}"):
        system.rm(f"/{name}", recursive=True)
    for path, data in contents.items():
        system.pipe_file(f"/{name}/{path}", data)
    return f"memory://{name}"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_names_sizes_and_folders(root):
    found = files.read_listing(str(root))
    assert found.names == ("a/1.png", "a/deeper/3.png", "b/2.png", "notes.txt")
    assert found.sizes == (7, 14, 7, 9)
    assert found.folders == ("a", "a/deeper", "b", "empty")


def test_the_place_is_no_part_of_the_identity(root, tmp_path):
    here = listing(str(root))
    root.rename(tmp_path / "moved")
    assert listing(str(tmp_path / "moved")) == here
    assert listing(f"file://{tmp_path}/moved") == here
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert listing(str(tmp_path / "link")) == here
    assert listing(memory("moved", contents(tmp_path / "moved"))) == here


@pytest.mark.parametrize("change", ["a new image", "one more byte", "one image less", "another name"])
def test_another_name_or_size_is_another_data_set(root, change):
    before = listing(str(root))
    match change:
        case "a new image":
            write(root / "b/3.png", b"")
        case "one more byte":
            write(root / "b/2.png", b"b/2.png ")
        case "one image less":
            (root / "b/2.png").unlink()
        case "another name":
            (root / "b/2.png").rename(root / "b/two.png")
    assert files.read_listing(str(root), fresh=True).checksum != before


def test_hidden_files_do_not_count(root):
    before = listing(str(root))
    write(root / ".DS_Store", b"x")
    write(root / "a/.cache/x.png", b"x")
    assert files.read_listing(str(root), fresh=True) == files.read_listing(str(root))
    assert listing(str(root)) == before


def test_a_kept_listing_is_not_read_from_the_folders_again(root, monkeypatch):
    found = files.read_listing(str(root))
    monkeypatch.setattr(files, "_scan", None)  # to call it would fail
    assert files.read_listing(str(root)) == found
    assert files.read_listing(str(root), names=False) == found._replace(names=(), sizes=())
    assert listing(str(root)) == found.checksum


@pytest.mark.parametrize("folder", ["", "a", "a/deeper", "empty"])
def test_a_change_in_any_folder_is_seen(root, folder):
    before = files.read_listing(str(root))
    write(root / folder / "new.png", b"new")
    found = files.read_listing(str(root))
    assert set(found.names) - set(before.names) == {f"{folder}/new.png".lstrip("/")}
    assert found.checksum != before.checksum


def test_a_folder_that_changed_just_now_is_not_trusted(root, monkeypatch):
    """Two changes within one tick of a disk's clock have one time of change."""
    write(root / "a/4.png", b"4")
    files.read_listing(str(root))
    assert not list(files.cache.folder("listings").glob("*"))


def test_a_damaged_kept_listing_is_made_again(root):
    found = files.read_listing(str(root))
    (kept,) = files.cache.folder("listings").iterdir()
    for damage in (b"", b"{", kept.read_bytes()[:-20], b"\0" * 50, b"[]\n[]\n[]\n"):
        kept.write_bytes(damage)
        assert files.read_listing(str(root)) == found


def test_a_cache_that_cannot_be_written_costs_only_time(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(files.read_listing(str(root)).names) == 4


def test_a_single_file_is_known_by_its_content(tmp_path):
    for name in ("a.npz", "b.npz"):
        write(tmp_path / name, b"the same")
    write(tmp_path / "c.npz", b"the sama")
    a, b, c = (listing(str(tmp_path / name)) for name in ("a.npz", "b.npz", "c.npz"))
    assert a == b != c
    assert listing(memory("file", {"a.npz": b"the same"}) + "/a.npz") == a


def test_a_file_written_over_is_read_again(tmp_path):
    write(tmp_path / "a.npz", b"before")
    before = time.time() - 60
    os.utime(tmp_path / "a.npz", (before, before))
    first = listing(str(tmp_path / "a.npz"))
    write(tmp_path / "a.npz", b"afterw")
    assert listing(str(tmp_path / "a.npz")) != first


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*nowhere'"):
        listing(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nothing at 'memory://nowhere'"):
        listing("memory://nowhere")
    with pytest.raises(ValueError, match="nosuch://x"):
        listing("nosuch://x")


def test_a_link_to_nothing_and_a_circle_are_named(root):
    (root / "a/dead.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"dead\.png is neither a file nor a folder"):
        files.read_listing(str(root), fresh=True)
    (root / "a/dead.png").unlink()
    (root / "a/back").symlink_to(root)
    with pytest.raises(ValueError, match="does a link lead back"):
        files.read_listing(str(root), fresh=True)


def test_names_at_a_url():
    found = files.read_listing(memory("remote", {"a/1.png": b"x" * 50, "a/.hidden": b"", "b/2.png": b"y"}))
    assert (found.names, found.sizes, found.folders) == (("a/1.png", "b/2.png"), (50, 1), ("a", "b"))


def test_a_url_is_fetched_once_and_appears_whole(root, monkeypatch):
    url, system, calls = memory("once", contents(root)), type(fsspec.filesystem("memory")), []
    get, alone = system.get_file, threading.Lock()  # readers of this file system share their place in a file

    def slow(self, source: str, target: str) -> None:
        calls.append(source)
        Path(target).write_bytes(b"ha")  # a download at its half
        time.sleep(0.05)
        with alone:
            get(self, source, target)

    monkeypatch.setattr(system, "get_file", slow)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: Path(files.local(url, "a/1.png", 7)).read_bytes(), range(16)))
    assert set(read) == {b"a/1.png"}
    fetched = len(calls)
    assert 1 <= fetched <= 8
    files.local(url, "a/1.png", 7)
    assert len(calls) == fetched
    assert not list(files.cache.folder("files").rglob(".*"))


def test_a_file_of_another_size_than_listed_is_not_kept():
    url = memory("cut", {"a/1.png": b"half"})
    for _ in range(2):
        with pytest.raises(OSError, match=r"cut/a/1\.png has 4 bytes; 8 are listed"):
            files.local(url, "a/1.png", 8)


def test_a_new_class_at_a_url_is_seen_and_fresh_sees_everything():
    url = memory("growing", {"a/1.png": b"1"})
    first = listing(url)
    fsspec.filesystem("memory").pipe_file("/growing/b/2.png", b"2")
    second = listing(url)
    assert second != first
    fsspec.filesystem("memory").pipe_file("/growing/b/3.png", b"3")
    assert files.read_listing(url, fresh=True).checksum != second


def of(folder: Path, images: dict[str, bytes]) -> str:
    for name, data in images.items():
        write(folder / name, data)
    return str(settled(folder))


@pytest.mark.parametrize("size", [12, 70_000, 3_000_000])
@pytest.mark.parametrize("suffix", [".bmp", ".png", ".jpg"])
def test_equal_names_and_sizes_of_other_content_are_another_data_set(tmp_path, size, suffix):
    one = {f"{name}{suffix}": name.encode() * size for name in "abc"}
    other = {name: bytes(reversed(data[:-1])) + b"." for name, data in one.items()}
    first, second = of(tmp_path / "one", one), of(tmp_path / "other", other)
    assert files.read_listing(first)[1:] == files.read_listing(second)[1:]
    assert listing(first) != listing(second)
    assert listing(memory("one", one)) == listing(first)
    assert listing(memory("other", other)) == listing(second)


@pytest.mark.parametrize("place", [0, 5, 299_999, 599_999])
def test_one_byte_of_one_file_without_compression_counts(tmp_path, place):
    images = {f"{i}.ppm": bytes(600_000) for i in range(3)}
    before = listing(of(tmp_path / "one", images))
    changed = bytearray(600_000)
    changed[place] = 1
    assert listing(of(tmp_path / "two", {**images, "1.ppm": bytes(changed)})) != before


def test_of_very_many_files_a_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EVERY", 10)
    monkeypatch.setattr(files, "SAMPLE", 3)
    opened = []
    real = files._pieces
    monkeypatch.setattr(files, "_pieces", lambda name, size: opened.append(name) or real(name, size))
    images = {f"{i}.png": f"{i:04}".encode() for i in range(11)}
    first = listing(of(tmp_path / "one", images))
    sample = list(opened)
    assert len(sample) == 3
    assert listing(memory("many", images)) == first
    assert opened == sample * 2  # the same ones, wherever they lie
    changed = {**images, sample[1]: b"xxxx"}
    assert listing(of(tmp_path / "two", changed)) != first


def test_a_file_that_is_written_over_in_place_is_seen(root):
    """No folder changes then, and neither does a size."""
    before = files.read_listing(str(root))
    assert list(files.cache.folder("listings").iterdir())
    (root / "a/1.png").write_bytes(b"a/2.png")
    after = files.read_listing(str(root))
    assert after[1:] == before[1:]
    assert after.checksum != before.checksum


def test_a_file_that_cannot_be_read_is_named(root, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", arguments[0])

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"a/1\.png"):
        files._checksum(str(root), ("a/1.png",), {"a/1.png": 7}, ["a/1.png"])


def test_a_file_where_a_folder_is_needed_is_not_read(tmp_path):
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate(16 << 30)
    began = time.process_time()
    for path in (str(tmp_path / "huge.safetensors"), memory("alone", {"x": b"x"}) + "/x"):
        with pytest.raises(ValueError, match="is a file, not a folder"):
            files.read_listing(path, folder=True)
    assert time.process_time() - began < 1.0


def test_a_large_file_that_was_never_read_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "QUICK", 10)
    write(tmp_path / "small.npz", b"x" * 10)
    write(tmp_path / "large.npz", b"x" * 11)
    assert listing(str(tmp_path / "small.npz"), compute=False) == listing(str(tmp_path / "small.npz"))
    unread = listing(str(tmp_path / "large.npz"), compute=False)
    assert unread.startswith("unread ")
    settled(tmp_path)
    os.utime(tmp_path / "large.npz", (time.time() - 60,) * 2)
    read = listing(str(tmp_path / "large.npz"))
    assert read != unread
    assert listing(str(tmp_path / "large.npz"), compute=False) == read, "it was read, and that is kept"
