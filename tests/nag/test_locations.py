"""What is read and what is not: protocols, chains, names, and things that are no files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from nag import locations
from nag.datasets import listing as files
from nag.datasets.image_folder import ImageFolder

OURS = {*locations.PROTOCOLS, "memory"}


@pytest.mark.parametrize("protocol", sorted({*fsspec.available_protocols()} - OURS))
def test_every_other_protocol_that_fsspec_knows_is_refused(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)  # to call it would fail
    monkeypatch.setattr(fsspec, "filesystem", None)
    for place in (f"{protocol}://x", f"{protocol}:///x/y.npz", f"{protocol}://x::file:///etc"):
        for read in (locations.system, files.read_listing, files.local, locations.exists):
            with pytest.raises(ValueError, match=r"unknown protocol '[^']+'.*Give a path, or a URL of file, s3, gs"):
                read(place)


@pytest.mark.parametrize(
    "place",
    [
        "s3://a/x.npz::file:///b",
        "file:///a::b",
        "https://a.b/x::reference://y",
        "zip::x.zip",
        "reference::/x/refs.json",
    ],
)
def test_no_protocols_are_joined(place: str) -> None:
    for read in (locations.system, files.read_listing):
        with pytest.raises(ValueError, match="cannot be joined with '::'"):
            read(place)


def test_a_local_name_may_hold_colons(tmp_path: Path) -> None:
    """It is a name: fsspec's parser of URLs, for which it is a chain, does not see it."""
    for name in ("zip::inner", "data:,text", "12:30", "reference::file"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.png").write_bytes(b"x")
        assert files.read_listing(str(folder)).names == ("x.png",)
        system, root = locations.system(str(folder))
        assert system.cat_file(f"{root}/x.png") == b"x"


def test_close_spellings_are_told() -> None:
    assert "Did you mean 'https'?" in str(locations.refusal("HTTPS://a.b/c"))
    assert "Did you mean 's3'?" in str(locations.refusal("s3n://a/b"))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "is empty"),
        ("file://", "is empty"),
        ("a\0b", "not a valid name"),
        ("\ud800", "not a valid name"),
        ("x" * 256, "longer than the 255 bytes"),
        ("a/" + "é" * 128 + "/b", "longer than the 255 bytes"),
        ("a/" * 2048, "longer than 4,096 bytes"),
        ("s3://" + "x" * 5000, "longer than 4,096 bytes"),
        ("http://u:p@a.b/c", "a user or password in it"),
        ("http://[::1", "cannot be joined"),
        ("http://a.b:99999/c", "not a valid address"),
        ("http://a b/c", "not a valid address"),
        ("http:///c", "not a valid address"),
    ],
)
def test_what_is_no_place(place: str, words: str) -> None:
    assert words in str(locations.refusal(place))
    assert len(str(locations.refusal(place))) < 300
    assert "p@" not in str(locations.refusal(place))
    with pytest.raises(ValueError, match=words):
        files.read_listing(place)


def test_the_longest_names_are_places() -> None:
    for place in ("x" * 255, "a/" + "é" * 127 + "b", "a/" * 2047 + "b"):
        assert locations.refusal(place) is None


def test_memory_is_for_tests() -> None:
    code = "from nag import locations; print(locations.refusal('memory://x'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "unknown protocol 'memory'" in done.stdout


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("pipe")
    kinds = {"pipe": "a named pipe", "socket": "a socket", "link": "a named pipe", "/dev/zero": "a device"}
    for name, words in kinds.items():
        for read in (locations.check_regular, files.read_listing):
            with pytest.raises(ValueError, match=words):
                read(str(tmp_path / name))
    with pytest.raises(ValueError, match="a folder"):
        locations.check_regular(tmp_path)
    assert [locations.irregular(tmp_path / name) for name in (".", "nowhere")] == [None, None]


def test_no_folder_lies_at_an_http_address() -> None:
    with pytest.raises(ValueError, match="only single files can be read, not folders"):
        ImageFolder(path="https://example.org/images")
    with pytest.raises(ValueError, match="only single files can be read, not folders"):
        locations.system("https://example.org/images")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(locations.Unreachable, match=r"gs://bucket/x cannot be read: .*gcsfs"):
        locations.system("gs://bucket/x")


@pytest.mark.parametrize("protocol", ["s3", "hf"])
def test_a_cloud_without_network_or_credentials_is_one_error(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    place = {"s3": "s3://nagbench-no-such-bucket/x", "hf": "hf://datasets/nobody/nothing/x"}[protocol]
    with pytest.raises((locations.Unreachable, FileNotFoundError), match=place.split("/x")[0]):
        files.read_listing(place)
